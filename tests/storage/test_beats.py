"""Beats: what a sampler adds, beat by beat, is what the table gets, once and in order."""

from __future__ import annotations

import errno
import itertools
import os
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.beats import Beats
from storage.reader import read_table
from storage.schemas import METRICS
from storage.writer import TableWriteError, TableWriter

NAMES = st.text(max_size=3)
SERIES = st.tuples(NAMES, NAMES, st.lists(st.tuples(NAMES, NAMES), max_size=3).map(tuple))
VALUES = st.none() | st.floats(allow_nan=False)


@st.composite
def beats(draw):
    """A few kinds of beats, more than are remembered, in any order."""
    kinds = draw(st.lists(st.lists(SERIES, max_size=4), min_size=1, max_size=6))
    found = []
    for series in draw(st.lists(st.sampled_from(kinds), max_size=12)):
        size = sum(len(metrics) for _, _, metrics in series)
        found.append((series, draw(st.lists(VALUES, min_size=size, max_size=size)), draw(st.booleans())))
    return found


@settings(max_examples=60, deadline=None)
@given(told=beats())
def test_what_was_added_is_taken_once_and_in_order(told):
    """Any beats, taken at any time: each sample is one row, under its names and times, null where it was missed."""
    it, taken, wanted = Beats(), [], []
    for number, (series, values, take) in enumerate(told):
        it.add(1000.0 + number, float(number), list(series), values)
        names = [(host, component, *metric) for host, component, metrics in series for metric in metrics]
        wanted += [(1000.0 + number, float(number), *name, value) for name, value in zip(names, values, strict=True)]
        taken += it.take().to_pylist() if take else []
    taken += it.take().to_pylist()
    order = ("wall_s", "mono_s", "host", "component", "metric", "unit", "value")
    assert [tuple(row[name] for name in order) for row in taken] == wanted
    assert {(row["step"], row["stage"]) for row in taken} <= {(-1, "")}
    assert it.take().num_rows == 0


def test_what_is_no_number_is_missed():
    """A source that says NaN has told nothing."""
    it = Beats()
    it.add(1.0, 1.0, [("h", "c", (("m", "s"),))], [float("nan")])
    assert it.take()["value"].to_pylist() == [None]


def test_a_beat_added_while_others_are_taken_is_not_lost():
    """One thread adds as fast as it can, another takes: every beat comes out once."""
    it, stop, taken = Beats(), threading.Event(), []

    def add():
        for number in itertools.count():
            it.add(0.0, float(number), [("h", "c", (("m", "s"),))], [float(number)])
            if stop.is_set():
                return

    thread = threading.Thread(target=add)
    thread.start()
    while len(taken) < 20_000:
        taken += it.take()["value"].to_pylist()
    stop.set()
    thread.join()
    taken += it.take()["value"].to_pylist()
    assert taken == [float(number) for number in range(len(taken))]


def one(number: float, it: Beats) -> None:
    it.add(number, number, [("h", "c", (("m", "s"),))], [number])


def test_a_writer_stores_what_waits_with_each_flush(tmp_path):
    """What waits is stored by a flush, beside what was appended, and what is left when the writer is closed."""
    it = Beats()
    with TableWriter(tmp_path, METRICS, flush_s=3600, waiting=it.take) as writer:
        one(1.0, it)
        assert read_table(tmp_path, METRICS)[0].num_rows == 0
        writer.append({"value": [0.0]})
        writer.flush()
        assert read_table(tmp_path, METRICS)[0]["value"].to_pylist() == [0.0, 1.0]
        one(2.0, it)
    assert sorted(read_table(tmp_path, METRICS)[0]["value"].to_pylist()) == [0.0, 1.0, 2.0]


def test_what_waited_outlives_a_flush_that_failed(tmp_path, monkeypatch):
    """A full disk amid a flush: the rows that had been taken for it are stored by the next."""
    it, real, full = Beats(), os.fsync, [True]

    def fsync(handle: int) -> None:
        if full[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    with TableWriter(tmp_path, METRICS, flush_s=3600, waiting=it.take) as writer:
        one(1.0, it)
        with pytest.raises(TableWriteError, match="the disk is full"):
            writer.flush()
        one(2.0, it)
        full[0] = False
        writer.flush()
    assert read_table(tmp_path, METRICS)[0]["value"].to_pylist() == [1.0, 2.0]


def test_a_mistake_of_who_holds_rows_back_is_told_and_ends_no_thread(tmp_path):
    """What ``waiting`` raises in the background is raised by `check`, once; later flushes go on."""
    it, tries, done = Beats(), itertools.count(), threading.Event()

    def take():
        if next(tries) == 0:
            raise TypeError("a value of no kind")
        done.set()
        return it.take()

    with TableWriter(tmp_path, METRICS, flush_s=0.02, waiting=take) as writer:
        assert done.wait(60)
        with pytest.raises(TypeError, match="of no kind"):
            writer.check()
        writer.check()
        one(1.0, it)
    assert read_table(tmp_path, METRICS)[0]["value"].to_pylist() == [1.0]
