"""Undoing when the lab's own ground gives way: a full disk, clocks that jump, a restarted machine, a dead lab."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from injection import journal, procfs
from injection.fault import Context
from injection.faults.file_corruption import FileCorruption, Params
from injection.hand import Hand, Workshop
from injection.journal import State
from injection.measure import ask_here
from injection.receipts import History
from injection.recover import sweep, undo
from injection.target import LivePath, LiveProcess, Site
from injection.watchdog import Watch
from report.outcome import invalid_because
from tests.injection.victim import Victim, plan_fault, register, wait_until

HOUR_S = 3600
#: A journal on a disk of 256 KiB, in a mount namespace: a fault in force, then no room, then room again.
FULL = """
import json, os, sys
from dataclasses import replace
from pathlib import Path
from injection import journal, kernel
from injection.recover import revert_record, sweep
from injection.journal import State
folder, pid, ticks = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
kernel.mount("tmpfs", str(folder), "tmpfs", options="size=256k")
undo = {"pid": pid, "start_ticks": ticks}
base = journal.new_record("r1", "f1", "process-pause", "process", 5.0)
journal.advance(folder, replace(base, undo=undo), State.APPLIED)
told = {}
try:
    journal.write(folder, replace(base, fault_id="f2", undo={"held": "x" * (1 << 20)}))
    told["too_large"] = "written"
except OSError as error:
    told["too_large"] = error.strerror
told["after"] = sorted(path.name for path in folder.iterdir())
with open(folder / "filling", "wb", buffering=0) as filling:
    try:
        while filling.write(bytes(4096)):
            pass
    except OSError:
        pass
try:
    journal.write(folder, replace(base, fault_id="f3"))
    told["full"] = "written"
except OSError as error:
    told["full"] = error.strerror
record, found = revert_record(folder, next(journal.records(folder, "r1")))
told |= {"reverted": str(record.state), "gone": found.ok, "on_disk": str(next(journal.records(folder)).state)}
(folder / "filling").unlink()
told |= {"swept": [one.outcome for one in sweep(folder)], "left": os.listdir(folder)}
print(json.dumps(told))
"""
LEASE_LEFT = (
    "import sys; from pathlib import Path; from injection import journal; print(journal.lease_left_s(Path(sys.argv[1]), 'r1'))"
)


@pytest.fixture
def paused() -> Iterator[Victim]:
    """A process that stands still."""
    one = Victim()
    os.kill(one.who.pid, 19)
    yield one
    one.close()


def inside(namespaces: list[str], code: str, *arguments: object) -> str:
    """What a Python program prints in namespaces of its own."""
    argv = ["unshare", "--user", "--map-root-user", *namespaces, sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_full_disk_under_the_journal(tmp_path: Path, paused: Victim) -> None:
    """No record is half written, so nothing new is done; what is in force is undone all the same, and closed afterwards."""
    told = json.loads(inside(["--mount"], FULL, tmp_path, paused.who.pid, paused.who.start_ticks))
    assert told["too_large"] == told["full"] == "No space left on device"
    assert told["after"] == ["r1.f1.json"], "neither a torn record nor what was written of it"
    assert (told["reverted"], told["gone"], told["on_disk"]) == ("reverted", True, "applied")
    assert (told["swept"], told["left"]) == (["reverted"], [])
    assert paused.state != "T"


def test_a_lease_counts_the_time_in_which_the_machine_slept(tmp_path: Path) -> None:
    """Seen from a clock that stood an hour longer since boot, as after a suspend, a lease of a minute has lapsed."""
    journal.renew_lease(tmp_path, "r1", 60.0)
    assert 0 < journal.lease_left_s(tmp_path, "r1") <= 60
    left = float(inside(["--time", "--boottime", str(HOUR_S), "--fork"], LEASE_LEFT, tmp_path))
    assert -HOUR_S - 1 < left < 60 - HOUR_S
    assert float(inside(["--time", "--monotonic", str(HOUR_S), "--fork"], LEASE_LEFT, tmp_path)) > 0


@pytest.mark.parametrize("jump_s", [-10 * HOUR_S, 10 * HOUR_S])
def test_the_wall_clock_may_jump(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump_s: float) -> None:
    """A wall clock that is set back or forward makes no injector silent, and no silent one alive."""
    journal.renew_lease(tmp_path, "r1", 60.0)
    watch = Watch(tmp_path, "r1", [procfs.identity(os.getpid())], 60.0)
    true_s = time.time
    monkeypatch.setattr(time, "time", lambda: true_s() + jump_s)
    assert not watch.silent() and not watch.died(0)
    journal.renew_lease(tmp_path, "r1", -1.0)
    assert watch.silent()


def test_a_damaged_file_is_mended_after_a_restart_and_after_its_place(tmp_path: Path) -> None:
    """What a restart does not take away is undone after it, and once; what it takes away is touched no more."""
    file, me = tmp_path / "model.pt", procfs.identity(os.getpid())
    journals = tmp_path / "journal"
    journals.mkdir()
    target = LivePath(LiveProcess("train0", "trainers", "", me), file)
    base = journal.new_record("r1", "f1", "file-corruption", "file", 5.0)
    for changes in ({"boot_id": "another"}, {"pid_namespace": 1}):
        file.write_bytes(bytes(range(100)))
        fault = FileCorruption(Context(target, "file", ask_here, job=tmp_path), Params("flip"))
        fault.arm()
        held = fault.undo()
        fault.apply()
        assert file.read_bytes() != bytes(range(100))
        journal.write(journals, replace(base, state=State.APPLIED, undo=held, **changes))
        volatile = {"processes": [[me.pid, me.start_ticks]]}
        journal.write(journals, replace(base, fault_id="f2", kind="cpu-contention", undo=volatile, **changes))
        assert sorted(one.outcome for one in sweep(journals)) == ["gone", "reverted"]
        assert file.read_bytes() == bytes(range(100))
        assert sweep(journals) == []


def test_the_guard_waits_for_the_cluster_and_then_undoes_what_outlives_it(tmp_path: Path) -> None:
    """Its lab is killed: while the cluster's processes live it touches nothing; when they are gone it undoes, and ends."""
    file = tmp_path / "model.pt"
    file.write_bytes(bytes(range(100)))
    lab = subprocess.Popen(["sleep", "600"])
    cluster = subprocess.Popen(["unshare", "--user", "--pid", "--fork", "--kill-child", "sleep", "600"])
    wait_until(
        lambda: procfs.namespace_inode(cluster.pid, "pid_for_children") != procfs.namespace_inode("self", "pid"), "it is made"
    )
    guard = None
    try:
        target = LivePath(LiveProcess("train0", "trainers", "", procfs.identity(lab.pid)), file)
        fault = FileCorruption(Context(target, "file", ask_here, job=tmp_path), Params("flip"))
        fault.arm()
        held = fault.undo()
        fault.apply()
        damaged = file.read_bytes()
        namespace = procfs.namespace_inode(cluster.pid, "pid_for_children")
        base = journal.new_record("r1", "f1", "file-corruption", "file", 5.0)
        record = replace(base, state=State.APPLIED, undo=held, pid_namespace=namespace)
        journal.write(tmp_path, record)
        assert undo(tmp_path, record)[0] == "stuck" and file.read_bytes() == damaged, "the cluster is up"
        argv = ["--journal", str(tmp_path), "--run", "r1", "--watch", str(lab.pid), "--lease", "600"]
        guard = subprocess.Popen([sys.executable, "-m", "injection.watchdog", *argv], stdout=subprocess.PIPE, text=True)
        assert guard.stdout is not None and guard.stdout.readline() == "ready\n"
        lab.kill()
        lab.wait()
        cluster.kill()
        cluster.wait()
        assert guard.wait(60) == 0
        assert file.read_bytes() == bytes(range(100))
        assert next(journal.records(tmp_path)).state == State.REVERTED
    finally:
        for process in (lab, cluster, guard):
            if process is not None:
                process.kill()
                process.wait()
        if guard is not None and guard.stdout is not None:
            guard.stdout.close()


def test_what_is_stuck_is_told_and_the_run_does_not_count(
    tmp_path: Path, victim: Victim, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault that cannot be undone is stuck in the truth and in the journal, until a sweep succeeds; its run is invalid."""
    journals = tmp_path / "journal"
    for folder in (journals, tmp_path / "registry"):
        folder.mkdir()
    (tmp_path / "addresses.json").write_text('{"bind": {}, "listen": {}, "dial": {}}')
    register(tmp_path / "registry", "train1", victim.who)
    history, entry = History(tmp_path / "history.jsonl"), plan_fault("process-pause")
    site = Site(tmp_path / "registry", tmp_path / "addresses.json")
    hand = Hand(entry, Workshop("r1", "plain-host", site, journals, history, 5.0, 10.0, ""))
    hand._arm()
    hand._act()

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr("signal.pidfd_send_signal", refuse)
        hand.finish()
    assert hand.stuck and victim.state == "T"
    told = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert "not permitted" in next(line["reason"] for line in told if line["what"] == "stuck")
    assert any("stuck" in reason and "not permitted" in reason for reason in invalid_because({"faults": [entry]}, told))
    assert next(journal.records(journals)).state == State.STUCK
    assert [one.outcome for one in sweep(journals)] == ["reverted"]
    assert victim.state != "T"


def test_every_test_that_the_page_names_exists() -> None:
    """No row of docs/undo.md is held by a test that is not there."""
    root = Path(__file__).resolve().parents[2]
    cited = re.findall(r"`((?:tests/\w+/)?test_\w+\.py)::(test_\w+)`", (root / "docs" / "undo.md").read_text())
    files = {file: root / (file if "/" in file else f"tests/injection/{file}") for file, _ in cited}
    assert len(cited) > 25
    assert [name for file, name in cited if f"def {name}(" not in files[file].read_text()] == []
