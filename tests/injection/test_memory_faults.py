from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from injection import journal
from injection.cgroup import Group, group_of
from injection.fault import RefusedError
from injection.faults.memory_pressure import MemoryPressure, Params
from injection.measure import ask_here
from injection.measure_memory import available_memory
from injection.memory.group import why_not
from injection.memory.pressure import MIB
from injection.recover import sweep
from tests.injection.victim import Victim, wait_until


@pytest.fixture
def victim() -> Iterator[Victim]:
    one = Victim()
    yield one
    one.close()


def device(folder: Path, *, colocated: bool = True, mib: int = 8) -> Path:
    """A job folder with a shared device of the first rank."""
    (folder / "arena").mkdir()
    (folder / "config.json").write_text(json.dumps({"device": "cpu", "colocated": colocated, "arena_path": ""}))
    with (folder / "arena" / "node1").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, mib * MIB)
    return folder


def armed(victim: Victim, job: Path = Path(), **params: object) -> tuple[MemoryPressure, dict]:
    fault = MemoryPressure(replace(victim.context(), job=job), Params(**params))
    fault.arm()
    return fault, fault.undo()


@pytest.mark.root
def test_a_full_group_kills_the_target_and_not_its_ballast(victim: Victim) -> None:
    """Group: within 1 % of the ballast asked; what the target wants beyond the headroom ends it by SIGKILL; the group goes."""
    fault, undo = armed(victim, where="group", headroom_mib=16, ballast_mib=80)
    assert not Path(undo["group"]).exists()
    fault.apply()
    found = fault.verify()
    assert found.ok and abs(found.measured["held_bytes"] - 80 * MIB) <= 0.8 * MIB
    assert found.measured["usage_bytes"] >= 80 * MIB and not MemoryPressure.gone(undo, ask_here).ok
    victim.process.stdin.write("more\n")
    victim.process.stdin.flush()
    assert victim.process.wait(30) == -9
    found = fault.verify()
    assert found.ok and found.measured["oom_kills_count"] == 1 and found.measured["held_bytes"] == 80 * MIB
    for _ in range(2):
        MemoryPressure.revert(undo)
        assert MemoryPressure.gone(undo, ask_here).ok
    assert not fault.verify().ok, "the probe must be able to say no"


@pytest.mark.root
def test_a_target_comes_back_from_its_group(victim: Victim) -> None:
    """Group: reverted the target lives where it was before; a second group of the hands around it is refused."""
    home = group_of(victim.who.pid, "memory")
    fault, undo = armed(victim, where="group", headroom_mib=200)
    second, other = armed(victim, where="group", headroom_mib=100)
    fault.apply()
    assert group_of(victim.who.pid, "memory") == Group(Path(undo["group"]), home.version)
    with pytest.raises(RefusedError, match="already"):
        second.apply()
    MemoryPressure.revert(other)
    assert group_of(victim.who.pid, "memory") == Group(Path(undo["group"]), home.version)
    MemoryPressure.revert(undo)
    assert group_of(victim.who.pid, "memory") == home
    assert victim.allocate() == "allocated"


@pytest.mark.root
def test_a_group_that_its_cluster_left_behind_goes_with_the_next_sweep(victim: Victim, tmp_path: Path) -> None:
    """A control group is the machine's: when the virtual cluster it was made in has ended, a sweep removes it all the same."""
    fault, undo = armed(victim, where="group", headroom_mib=200)
    fault.apply()
    record = journal.new_record("r1", "f1", "memory-pressure", "process", 5.0)
    journal.write(tmp_path, replace(record, state=journal.State.APPLIED, undo=undo, pid_namespace=1))
    assert [one.outcome for one in sweep(tmp_path)] == ["reverted"]
    assert not Path(undo["group"]).exists() and sweep(tmp_path) == []


def test_where_no_group_can_be_made_the_allocation_fails_instead(victim: Victim, monkeypatch: pytest.MonkeyPatch) -> None:
    """group-or-process: without groups it is the limit of the address space, and the state read back says so."""
    monkeypatch.setattr("injection.memory.group.group_of", lambda *_: None)
    fault, undo = armed(victim, where="group-or-process", headroom_mib=16)
    assert fault.apply()["where"] == undo["where"] == "process"
    assert victim.allocate() == "MemoryError"
    MemoryPressure.revert(undo)
    assert victim.allocate() == "allocated"


def test_a_folder_that_may_not_be_written_is_no_home_of_groups(tmp_path: Path) -> None:
    """Group: where making one is not permitted, or the controller is not there, the refusal says which."""
    assert "no memory limit" in why_not(Group(tmp_path / "site-1", 2))
    assert "No such file" in why_not(Group(tmp_path / "none" / "site-1", 2))
    assert not (tmp_path / "site-1").exists()


def test_the_machine_has_less_left_and_all_of_it_back(victim: Victim) -> None:
    """Machine: the holder has what was asked within 1 %, at no CPU cost; the reserve is refused; gone means free again."""
    left = available_memory()["available_bytes"] // MIB
    fault, undo = armed(victim, where="machine", headroom_mib=left - 768)
    fault.apply()
    found = fault.verify()
    assert (
        found.ok and abs(found.measured["held_bytes"] - found.measured["asked_bytes"]) <= 0.01 * found.measured["asked_bytes"]
    )
    assert ask_here("cpu_share", {"processes": [undo["holder"]], "window_s": 0.3})["cores_ratio"] < 0.02
    MemoryPressure.revert(undo)
    assert MemoryPressure.gone(undo, ask_here).ok
    with pytest.raises(RefusedError, match="reserve"):
        armed(victim, where="machine", headroom_mib=100)


def test_a_co_tenant_has_what_the_headroom_leaves(victim: Victim, scratch: Path) -> None:
    """Device: what is free above the headroom is taken when `apply` returns, what gets free later too; ended, all is free."""
    fault, undo = armed(victim, device(scratch), where="device", headroom_mib=2)
    look = {**undo, "most_bytes": 0, "wait_s": 0.0}
    assert ask_here("device_memory", look)["free_bytes"] == 8 * MIB
    assert fault.apply()["held_bytes"] == 6 * MIB
    found = fault.verify()
    assert found.ok and found.measured["held_bytes"] == 6 * MIB and found.measured["free_bytes"] == 2 * MIB
    other, again = armed(victim, scratch, where="device", headroom_mib=1)
    other.apply()
    assert ask_here("device_memory", look)["free_bytes"] == 1 * MIB
    MemoryPressure.revert(undo)
    assert not MemoryPressure.gone(again, ask_here).ok
    wait_until(
        lambda: ask_here("device_memory", {**again, **look, "holder": again["holder"]})["held_bytes"] == 7 * MIB, "the rest"
    )
    MemoryPressure.revert(again)
    assert MemoryPressure.gone(again, ask_here).ok and ask_here("device_memory", look)["free_bytes"] == 8 * MIB


def test_a_ramp_takes_its_time(victim: Victim, scratch: Path) -> None:
    """Device: with a ramp nothing is taken at once, and the headroom is reached in the end."""
    fault, undo = armed(victim, device(scratch), where="device", headroom_mib=4, ramp_mib_per_s=8)
    assert fault.apply()["held_bytes"] < MIB
    found = fault.verify()
    assert found.ok and found.measured["free_bytes"] <= 4 * MIB * 1.01
    MemoryPressure.revert(undo)


def test_what_makes_no_sense_is_refused_before_it_begins(victim: Victim, scratch: Path) -> None:
    """Each way refuses what it cannot do: a ramp of a limit, a job without shared devices, a ballast outside a group."""
    for params, word in (
        ({"where": "process", "ramp_mib_per_s": 1}, "ramp"),
        ({"where": "machine", "ballast_mib": 1}, "reserve|ballast"),
        ({"where": "device", "ballast_mib": 1}, "ballast"),
    ):
        with pytest.raises(RefusedError, match=word):
            armed(victim, headroom_mib=1, **params)
    with pytest.raises(RefusedError, match="colocated"):
        armed(victim, device(scratch, colocated=False), headroom_mib=1, where="device")


def test_without_a_cuda_device_its_co_tenant_is_refused(victim: Victim, scratch: Path) -> None:
    """Device: a job on CUDA has a co-tenant that needs torch and a device; without one it says so before anything begins."""
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    (scratch / "config.json").write_text(json.dumps({"device": "cuda", "colocated": False, "arena_path": ""}))
    with pytest.raises(RefusedError, match="finds no CUDA device here"):
        armed(victim, scratch, where="device", headroom_mib=1024)
