from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from injection import journal, procfs
from injection.hand import Hand, Workshop
from injection.journal import State
from injection.receipts import History
from injection.recover import in_order, revert_record, sweep
from injection.target import Site
from tests.injection.victim import Victim, plan_fault, register


@pytest.mark.parametrize("state", list(State))
def test_a_record_comes_back_as_written(tmp_path: Path, state: State) -> None:
    """Every field of a record survives the file, in every state."""
    record = replace(journal.new_record("r1", "f1", "process-pause", "process", 5.0), undo={"pid": 1, "deep": [[1, 2]]})
    written = journal.advance(tmp_path, record, state, "because")
    assert list(journal.records(tmp_path, "r1")) == [written]
    assert written.boot_id == procfs.boot_id()
    assert (written.injector_pid, written.state, written.reason) == (os.getpid(), state, "because")


def test_a_write_that_fails_leaves_the_old_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk in the middle of a write neither tears nor loses what was there."""
    record = journal.advance(tmp_path, journal.new_record("r1", "f1", "noop", "none", 5.0), State.APPLIED)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(journal.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        journal.advance(tmp_path, record, State.REVERTING)
    assert list(journal.records(tmp_path)) == [record]


def test_a_strange_file_is_named(tmp_path: Path) -> None:
    """A file that is no record is refused by its path, and a sweep shows it as stuck instead of stopping at it."""
    (tmp_path / "r9.f1.json").write_text("{}")
    with pytest.raises(ValueError, match=r"r9\.f1\.json is not a fault record"):
        journal.read(tmp_path / "r9.f1.json")
    journal.write(tmp_path, journal.new_record("s1", "f1", "noop", "none", 5.0))
    assert [outcome.outcome for outcome in sweep(tmp_path)] == ["stuck", "reverted"]


def test_the_lease_counts_down(tmp_path: Path) -> None:
    """A lease is unknown before its first renewal and then has at most what was given."""
    assert journal.lease_left_s(tmp_path, "r1") is None
    journal.renew_lease(tmp_path, "r1", 5.0)
    assert 0 < journal.lease_left_s(tmp_path, "r1") <= 5.0
    journal.renew_lease(tmp_path, "r1", -1.0)
    assert journal.lease_left_s(tmp_path, "r1") < 0


def test_nothing_is_touched_before_its_undo_is_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault whose undo record cannot be written is not applied: the run is invalid and the target unharmed."""
    victim = Victim()
    try:
        (tmp_path / "registry").mkdir()
        (tmp_path / "addresses.json").write_text('{"bind": {}, "listen": {}, "dial": {}}')
        register(tmp_path / "registry", "train1", victim.who)
        site = Site(tmp_path / "registry", tmp_path / "addresses.json")
        history = History(tmp_path / "history.jsonl")
        hand = Hand(plan_fault("process-pause"), Workshop("r1", "plain-host", site, tmp_path, history, 5.0, 10.0, ""))

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(journal, "write", full)
        hand._guarded(hand._arm)
        hand._guarded(hand._act)
        monkeypatch.undo()
        assert victim.state != "T"
        told = (tmp_path / "history.jsonl").read_text().splitlines()
        assert "No space left" in told[-2] and "fired before the fault was armed" in told[-1]
        hand.finish()
    finally:
        victim.close()


@pytest.mark.parametrize("state", list(State))
def test_undoing_is_legal_from_every_state_and_twice(tmp_path: Path, state: State) -> None:
    """Whatever state a dead injector left, the sweep frees the target, and a second sweep has nothing to do."""
    victim = Victim()
    try:
        undo = {"pid": victim.who.pid, "start_ticks": victim.who.start_ticks}
        record = replace(journal.new_record("r1", "f1", "process-pause", "process", 5.0), undo=undo)
        if state != State.REVERTED:
            os.kill(victim.who.pid, 19)
        journal.advance(tmp_path, record, state)
        assert [(one.outcome, one.kind) for one in sweep(tmp_path)] == [("reverted", "process-pause")]
        assert victim.state != "T"
        assert sweep(tmp_path) == []
        assert revert_record(tmp_path, record)[0].state == State.REVERTED
    finally:
        victim.close()


def test_another_boot_or_a_dead_cluster_took_its_faults_along(tmp_path: Path) -> None:
    """Records of another boot, or of a PID namespace that is no more, are closed as gone without touching any process."""
    me = procfs.identity(os.getpid())
    undo = {"pid": me.pid, "start_ticks": me.start_ticks}
    base = replace(journal.new_record("r1", "f1", "process-kill", "process", 5.0), undo=undo, state=State.APPLIED)
    journal.write(tmp_path, replace(base, boot_id="another"))
    journal.write(tmp_path, replace(base, fault_id="f2", pid_namespace=1))
    assert [outcome.outcome for outcome in sweep(tmp_path)] == ["gone", "gone"]
    assert sweep(tmp_path) == []


def test_what_cannot_be_undone_stays_and_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A revert that fails is stuck with its reason, in every sweep, until it succeeds."""
    victim = Victim()
    try:
        undo = {"processes": [[victim.who.pid, victim.who.start_ticks]]}
        journal.write(tmp_path, replace(journal.new_record("r1", "f1", "cpu-contention", "process", 5.0), undo=undo))

        def refuse(*_: object) -> None:
            raise PermissionError(1, "Operation not permitted")

        with monkeypatch.context() as patch:
            patch.setattr("signal.pidfd_send_signal", refuse)
            for _ in range(2):
                assert [(one.outcome, "not permitted" in one.reason) for one in sweep(tmp_path)] == [("stuck", True)]
        assert [one.outcome for one in sweep(tmp_path)] == ["reverted"]
        assert not victim.who.alive()
    finally:
        victim.close()


def test_a_number_that_a_thread_has_by_now_is_nobody_to_be_ended(tmp_path: Path) -> None:
    """A helper's pid may have been given to a thread since: its record is closed, and not stuck while that thread lives."""
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    try:
        undo = {"processes": [[thread.native_id, 1]]}
        journal.write(tmp_path, replace(journal.new_record("r1", "f1", "cpu-contention", "process", 5.0), undo=undo))
        assert [(one.outcome, one.reason) for one in sweep(tmp_path)] == [("reverted", "")]
    finally:
        over.set()
        thread.join()


def test_what_others_wait_for_is_undone_first_and_the_latest_before_the_earlier(tmp_path: Path) -> None:
    """A frozen disk is thawed before anything that may have to write to it; the rest goes in the reverse order of applying."""
    for name, kind in (("f1", "io-contention"), ("f2", "file-corruption"), ("f3", "file-corruption"), ("f4", "noop")):
        journal.write(tmp_path, journal.new_record("r1", name, kind, "none", 5.0))
        os.utime(tmp_path / f"r1.{name}.json", ns=(0, int(name[1])))
    ordered = in_order(tmp_path, journal.records(tmp_path, "r1"))
    assert [one.fault_id for one in ordered] == ["f1", "f4", "f3", "f2"]
