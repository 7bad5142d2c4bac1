"""Clocks of other hosts: asked as NTP asks, of a clock that is wrong by a known time, of nobody, and of strangers."""

from __future__ import annotations

import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.clock import CLOCK_METRICS, ClockSource, offset_s, serve, stamp, timed_socket

ROOT = Path(__file__).resolve().parents[2]


def told(source: ClockSource, mono_s: float) -> list:
    """The next reading that has rows, of a beat that is not due to ask again."""
    deadline = time.monotonic() + 60
    while not (rows := list(source.read(mono_s))):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return rows


@pytest.fixture
def place():
    listening = timed_socket()
    listening.bind(("127.0.0.1", 0))
    yield listening
    listening.close()


@pytest.mark.parametrize("wrong_s", [0.25, -3600.0, 0.0])
def test_a_clock_that_is_wrong_is_told_by_how_much(place, wrong_s):
    """The offset is right to within the error that is told with it, also in the next exchange."""
    clock = threading.Thread(target=serve, args=(place, round(wrong_s * 1e9)), daemon=True)
    clock.start()
    source = ClockSource({"store": f"127.0.0.1:{place.getsockname()[1]}"}, 10.0)
    for mono_s in (10.0, 20.0):
        ((host, component, metrics, (offset, error)),) = told(source, mono_s)
        assert (host, component, metrics) == ("store", "store", CLOCK_METRICS)
        assert abs(offset - wrong_s) <= error + 1e-6 and 0 <= error < 60
        assert list(source.read(mono_s + 5)) == []
    source.close()


def test_a_host_that_does_not_answer_is_missed_and_an_old_answer_is_none(place):
    """Null when it is asked again; what answers an earlier question does not count for the later one."""
    source = ClockSource({"store": f"127.0.0.1:{place.getsockname()[1]}"}, 10.0)
    assert list(source.read(10.0)) == []
    first, caller = place.recvfrom(256)
    assert first[0] & 7 == 3 and len(first) == 48
    assert list(source.read(20.0)) == [("store", "store", CLOCK_METRICS, [None, None])]
    asked = struct.unpack("!Q", first[40:])[0]
    place.sendto(struct.pack("!BBbbIIIQQQQ", 0x24, 1, 0, 0, 0, 0, 0, 0, asked, asked, asked), caller)
    time.sleep(0.05)
    assert list(source.read(25.0)) == []
    source.close()


def test_the_program_is_a_hosts_clock(place):
    """Started as a program beside us it is asked and agrees with us: there is one clock here."""
    port = place.getsockname()[1]
    place.close()
    program = subprocess.Popen([sys.executable, "-m", "telemetry.clock", f"127.0.0.1:{port}"], cwd=ROOT)
    source = ClockSource({"store": f"127.0.0.1:{port}"}, 0.1)
    try:
        deadline, mono_s, rows = time.monotonic() + 60, 0.0, []
        while not rows or rows[0][3][0] is None:
            assert time.monotonic() < deadline and program.poll() is None
            mono_s, rows = mono_s + 0.1, list(source.read(mono_s))
            time.sleep(0.05)
        offset, error = rows[0][3]
        assert abs(offset) <= error + 1e-6
    finally:
        program.kill()
        program.wait()
        source.close()


@given(data=st.binary(max_size=80), asked=st.integers(0, (1 << 64) - 1))
def test_strange_packets_are_no_answers(data, asked):
    """Whatever comes: None, or two numbers of which the error is not negative."""
    answer = offset_s(data, asked, asked + 1)
    assert answer is None or answer[1] >= 0


def test_what_does_not_know_the_time_does_not_answer():
    """Another's question, a question, no transmit time, strata 0 and 16: no answer. A good one counts, also across 2036."""
    late = 2_085_978_495 * 10**9 + 999_999_000  # 1 us before the 32 bits of seconds are full

    def answer(flags=0x24, stratum=2, asked=0, sent=8000):
        times = 0, stamp(late + asked), stamp(late + 6000), stamp(late + sent) if sent else 0
        data = struct.pack("!BBbbIIIQQQQ", flags, stratum, 0, 0, 0, 0, 0, *times)
        return offset_s(data, stamp(late), stamp(late + 4000))

    for wrong in ({"flags": 0x23}, {"stratum": 0}, {"stratum": 16}, {"sent": 0}, {"asked": 5}):
        assert answer(**wrong) is None
    assert answer() == (pytest.approx(5e-6, abs=1e-8), pytest.approx(1e-6, abs=1e-8))
