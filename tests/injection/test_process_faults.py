from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from injection import procfs
from injection.fault import RefusedError, Undo
from injection.faults.cpu_contention import CpuContention
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
    undo = fault.undo()
    fault.apply()
    found = fault.verify()
    assert found.ok and 0 <= found.measured["headroom_bytes"] <= 16 << 20
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
    theirs = (undo["ours_bytes"] + (1 << 30), before_hard(victim))
    resource.prlimit(victim.who.pid, resource.RLIMIT_AS, theirs)
    MemoryPressure.revert(undo)
    assert resource.prlimit(victim.who.pid, resource.RLIMIT_AS) == theirs


def before_hard(victim: Victim) -> int:
    return resource.prlimit(victim.who.pid, resource.RLIMIT_AS)[1]


def test_contenders_take_the_targets_core_and_vanish(victim: Victim) -> None:
    """CPU: standing ready they use nothing; woken they get at least half their fair share; reverted none is left."""
    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(victim.who.pid, {core})
    fault = CpuContention(victim.context(), Contention(contenders=3))
    fault.arm()
    undo = fault.undo()
    pids = [pid for pid, _ in undo["contenders"]]
    assert len(pids) == 3 and {procfs.read_stat(pid).state for pid in pids} == {"T"}
    assert {frozenset(os.sched_getaffinity(pid)) for pid in pids} == {frozenset({core})}
    assert not fault.verify().ok, "the probe must be able to say no"
    fault.apply()
    wait_until(lambda: fault.verify().ok, "contenders get their share", 60)
    assert not CpuContention.gone(undo, ask_here).ok
    for _ in range(2):
        CpuContention.revert(undo)
        assert CpuContention.gone(undo, ask_here).ok
    assert victim.who.alive()


def test_contenders_tell_nothing_by_their_name(victim: Victim) -> None:
    """CPU: no word of the lab stands in a contender's command line."""
    fault = CpuContention(victim.context(), Contention(contenders=1))
    fault.arm()
    undo: Undo = fault.undo()
    command = Path(f"/proc/{undo['contenders'][0][0]}/cmdline").read_bytes().lower()
    CpuContention.revert(undo)
    assert not [word for word in (b"faultline", b"fault", b"inject", b"lab", b"prefect", b"conten") if word in command]
