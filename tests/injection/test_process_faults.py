from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from injection import procfs
from injection.fault import RefusedError
from injection.faults.cpu_contention import RIVALS, CpuContention, competitors
from injection.faults.cpu_contention import Params as Contention
from injection.faults.memory_pressure import MemoryPressure
from injection.faults.memory_pressure import Params as Pressure
from injection.faults.noop import Noop
from injection.faults.noop import Params as NoParams
from injection.faults.process_kill import Params as KillParams
from injection.faults.process_kill import ProcessKill
from injection.faults.process_pause import Params as PauseParams
from injection.faults.process_pause import ProcessPause
from injection.measure import ask_here
from injection.target import NoSuchTargetError
from tests.injection.victim import Victim, wait_until


@pytest.fixture
def victim() -> Iterator[Victim]:
    one = Victim()
    yield one
    one.close()


def test_a_noop_changes_nothing(victim: Victim) -> None:
    """The control arm goes the whole way and the process works on."""
    fault = Noop(victim.context("none"), NoParams())
    fault.arm()
    undo = fault.undo()
    fault.apply()
    assert fault.verify().ok
    Noop.revert(undo)
    assert Noop.gone(undo, ask_here).ok
    assert victim.allocate() == "allocated"


def test_a_killed_process_is_dead_when_apply_returns(victim: Victim) -> None:
    """Kill: dead by SIGKILL, confirmed by the process table; firing again refuses rather than hit another process."""
    fault = ProcessKill(victim.context(), KillParams())
    fault.arm()
    undo = fault.undo()
    fault.apply()
    assert not victim.who.alive()
    assert fault.verify().ok
    assert victim.process.wait() == -signal.SIGKILL
    ProcessKill.revert(undo)
    assert ProcessKill.gone(undo, ask_here).measured["alive"] is False
    with pytest.raises(NoSuchTargetError, match="no longer running"):
        fault.apply()


def test_a_paused_process_stands_still_and_goes_on(victim: Victim) -> None:
    """Pause: stopped and without CPU time (but a late tick) until reverted; reverting twice does no harm."""
    fault = ProcessPause(victim.context(), PauseParams())
    fault.arm()
    undo = fault.undo()
    fault.apply()
    found = fault.verify()
    assert found.ok and found.measured["states"] == "T" and found.measured["cpu_s"] <= 0.01
    assert not ProcessPause.gone(undo, ask_here).ok
    for _ in range(2):
        ProcessPause.revert(undo)
        assert ProcessPause.gone(undo, ask_here).ok
    assert victim.allocate() == "allocated"
    assert not fault.verify().ok, "the probe must be able to say no"


def test_a_process_somebody_else_stopped_is_refused(victim: Victim) -> None:
    """Pause refuses a process that is stopped already: waking it later would undo what is not ours."""
    fault = ProcessPause(victim.context(), PauseParams())
    fault.arm()
    os.kill(victim.who.pid, signal.SIGSTOP)
    wait_until(lambda: victim.state == "T", "the victim stops")
    with pytest.raises(RefusedError, match="stopped already"):
        fault.apply()


def test_memory_runs_out_and_comes_back(victim: Victim) -> None:
    """Memory: the next 64 MiB raise MemoryError, the process lives; after reverting they succeed and the old limit is back."""
    before = resource.prlimit(victim.who.pid, resource.RLIMIT_AS)
    fault = MemoryPressure(victim.context(), Pressure(headroom_mib=16))
    fault.arm()
    undo = fault.undo()
    assert victim.allocate() == "allocated"
    assert fault.undo() == undo, "what is on disk since arming still undoes it"
    fault.apply()
    found = fault.verify()
    assert found.ok and 0 <= found.measured["headroom_bytes"] < (16 << 20) + 4096
    assert not MemoryPressure.gone(undo, ask_here).ok
    assert victim.allocate() == "MemoryError"
    for _ in range(2):
        MemoryPressure.revert(undo)
        assert MemoryPressure.gone(undo, ask_here).ok
    assert victim.allocate() == "allocated"
    assert resource.prlimit(victim.who.pid, resource.RLIMIT_AS) == before
    assert not fault.verify().ok, "the probe must be able to say no"


def test_a_limit_that_is_not_ours_stays(victim: Victim) -> None:
    """Memory: reverting compares first, and leaves a limit that somebody else has set meanwhile."""
    fault = MemoryPressure(victim.context(), Pressure(headroom_mib=16))
    fault.arm()
    undo = fault.undo()
    fault.apply()
    theirs = (procfs.vm_size_bytes(victim.who.pid) // 4096 * 4096 + (1 << 30), before_hard(victim))
    resource.prlimit(victim.who.pid, resource.RLIMIT_AS, theirs)
    MemoryPressure.revert(undo)
    assert resource.prlimit(victim.who.pid, resource.RLIMIT_AS) == theirs


def before_hard(victim: Victim) -> int:
    return resource.prlimit(victim.who.pid, resource.RLIMIT_AS)[1]


def test_competitors_take_the_targets_core_and_vanish(victim: Victim) -> None:
    """CPU: standing ready they use nothing; let go they get at least half of what was asked; reverted none is left."""
    core = max(os.sched_getaffinity(0))
    procfs.pin(victim.who, core)
    fault = CpuContention(victim.context(), Contention(share_percent=60))
    fault.arm()
    undo = fault.undo()
    pids = [pid for pid, _ in undo["processes"]]
    assert len(pids) == competitors(0.6)
    assert {frozenset(os.sched_getaffinity(pid)) for pid in pids} == {frozenset({core})}
    assert ask_here("cpu_share", {**undo, "window_s": 0.2})["cores_ratio"] < 0.02, "the probe must be able to say no"
    fault.apply()
    wait_until(lambda: ask_here("cpu_share", {**undo, "window_s": 0.5})["cores_ratio"] > 0.3, "they get a share", 60)
    assert fault.verify().measured["share_percent"] < 64
    assert not CpuContention.gone(undo, ask_here).ok
    for _ in range(2):
        CpuContention.revert(undo)
        assert CpuContention.gone(undo, ask_here).ok
    assert victim.who.alive()


@given(st.floats(min_value=0.01, max_value=0.98))
def test_there_are_enough_competitors_for_the_share(share: float) -> None:
    """CPU: by fairness alone n equals get n / (n + 2) of a core that two others want all of; that covers the share."""
    count = competitors(share)
    assert count / (count + RIVALS) > share
    assert (count - 2) / (count - 2 + RIVALS) < share or count == 2
