from __future__ import annotations

import os
import resource
import signal
import threading
import time
from pathlib import Path

import pytest

from injection import journal, procfs
from injection.journal import State
from injection.recover import sweep
from tests.injection.victim import Lab, Seam, Victim, alive, plan_fault, register, started, wait_until


def test_a_fault_goes_its_way_from_armed_to_gone(scratch: Path, victim: Victim, labs: list[Lab]) -> None:
    """Pause at step 3: nothing before, stopped when the barrier ends, verified, running again and proved gone at the end."""
    lab = started(labs, scratch, victim, [plan_fault("process-pause")])
    seam = Seam(lab.seam)
    for step in range(3):
        assert seam.reach("train", step) < 10
        assert victim.state != "T"
    held = seam.reach("train", 3)
    assert victim.state == "T" and held >= 0.05
    lab.wait_for("verified")
    assert lab.stop() == 0
    seam.close()
    wait_until(lambda: victim.state != "T", "the victim goes on")
    states = [line["what"] for line in lab.history() if line["what"] != "event"]
    assert states == ["armed", "fired", "applied", "verified", "reverted", "gone"]
    for proof in (*lab.history("verified"), *lab.history("gone")):
        assert proof["ok"] and proof["receipt"]["ok"] and proof["receipt"]["probe"]
    assert [(line["step"], line["stage"], line["component"]) for line in lab.history("event")][-1] == (3, "train", "controller")
    assert [(line["step"], line["stage"]) for line in lab.history("applied")] == [(3, "train")]
    assert lab.history("fired")[0]["event_mono_s"] < lab.history("applied")[0]["mono_s"]
    assert list(lab.journal.iterdir()) == []


def test_every_announcement_is_held_equally_long(scratch: Path, victim: Victim, labs: list[Lab]) -> None:
    """Whether it is the point of a fault, of a noop, or of nothing: no answer tells where the trigger lies."""
    for kind in ("noop", "process-pause"):
        lab = started(labs, scratch, victim, [plan_fault(kind)], barrier_hold_s=0.3)
        seam, worker = Seam(lab.seam), Seam(lab.seam, "rollout0")
        before = [seam.reach(stage, 2) for stage in ("rollout", "train")] + [worker.reach("reward", 2)]
        at_the_point = seam.reach("train", 3)
        after = [seam.reach("train", 3), seam.reach("cleanup", 3)]
        assert min([*before, at_the_point, *after]) >= 0.3
        assert lab.stop() == 0
        assert [line["what"] for line in lab.history() if line["what"] != "event"][:3] == ["armed", "fired", "applied"]
        seam.close()
        worker.close()


def test_a_kill_at_the_barrier_is_over_when_it_answers(scratch: Path, victim: Victim, labs: list[Lab]) -> None:
    """Kill: the victim is dead by SIGKILL before the job goes on."""
    lab = started(labs, scratch, victim, [plan_fault("process-kill")])
    seam = Seam(lab.seam)
    seam.reach("train", 3)
    assert victim.process.poll() == -signal.SIGKILL
    lab.wait_for("verified")
    assert lab.stop() == 0
    seam.close()


@pytest.mark.parametrize("phase", ["exit", "error"])
def test_a_fault_ends_with_its_stage(scratch: Path, victim: Victim, labs: list[Lab], phase: str) -> None:
    """Until exit: undone when the answer to the stage's end comes, whether it ended well or not."""
    until = {"when": "exit", "stage": "train", "steps_later": 0}
    lab = started(labs, scratch, victim, [plan_fault("process-pause", until=until)])
    seam = Seam(lab.seam)
    seam.reach("train", 3)
    assert victim.state == "T"
    lab.wait_for("verified")
    seam.reach("train", 3, phase)
    assert victim.state != "T"
    lab.wait_for("gone")
    assert lab.stop() == 0
    assert len(lab.history("gone")) == 1
    seam.close()


def test_a_fault_begins_and_ends_after_its_seconds(scratch: Path, victim: Victim, labs: list[Lab]) -> None:
    """after_s: applied so long after the event, undone so long after that, without any further announcement."""
    late = {"step": 3, "stage": "train", "when": "enter", "after_s": 0.3}
    lab = started(labs, scratch, victim, [plan_fault("process-pause", trigger=late, until={"after_s": 0.8})])
    seam = Seam(lab.seam)
    seam.reach("train", 3)
    gone = lab.wait_for("gone")
    applied = lab.history("applied")[0]
    assert applied["mono_s"] - lab.history("fired")[0]["event_mono_s"] >= 0.3
    assert gone["mono_s"] - applied["mono_s"] >= 0.8
    assert victim.state != "T"
    assert lab.stop() == 0
    seam.close()


def test_a_trigger_that_never_fires_is_expired(scratch: Path, victim: Victim, labs: list[Lab]) -> None:
    """A later step, or the end, is told as expired, with the reason; the target is untouched and nothing is left."""
    faults = [plan_fault("process-kill"), plan_fault("cpu-contention", {"share_percent": 50}, id="f2")]
    faults[1]["trigger"] = {"step": 9, "stage": "train", "when": "enter"}
    lab = started(labs, scratch, victim, faults)
    seam = Seam(lab.seam)
    seam.reach("rollout", 4)
    assert lab.history("expired")[0]["reason"] == "step 4 began before enter of train in step 3 was announced"
    assert lab.stop() == 0
    assert lab.history("expired")[1]["reason"] == "the job ended before enter of train in step 9 was announced"
    assert victim.who.alive() and not lab.history("fired") and not lab.history("gone")
    assert list(lab.journal.iterdir()) == []
    seam.close()


def test_a_target_that_does_not_exist_makes_the_run_invalid(scratch: Path, victim: Victim, labs: list[Lab]) -> None:
    """No such process: one clear sentence with those that exist; the barrier is still held and answered."""
    fault = plan_fault("process-kill", target={"type": "process", "component": "train9"})
    lab = started(labs, scratch, victim, [fault], arm_timeout_s=0.2)
    reason = lab.history("invalid")[0]["reason"]
    assert reason == "arm: NoSuchTargetError: no process 'train9' has registered; registered: train1"
    seam = Seam(lab.seam)
    assert seam.reach("train", 3) >= 0.05
    assert lab.stop() == 0
    assert victim.who.alive()
    seam.close()


def test_one_client_at_a_barrier_keeps_no_other_waiting(scratch: Path, victim: Victim, labs: list[Lab]) -> None:
    """While the controller is held, rollout workers' announcements are heard: holds of several run side by side."""
    lab = started(labs, scratch, victim, [plan_fault("noop")], barrier_hold_s=1.0)
    seams = [Seam(lab.seam), *(Seam(lab.seam, f"rollout{rank}") for rank in range(8))]
    began = time.monotonic()
    waiting = [threading.Thread(target=seam.reach, args=("train", 3)) for seam in seams]
    for thread in waiting:
        thread.start()
    for thread in waiting:
        thread.join(30)
    assert time.monotonic() - began < len(seams) * 1.0
    assert lab.stop() == 0
    for seam in seams:
        seam.close()


def test_a_pinned_target_keeps_to_one_core_in_the_control_arm_too(scratch: Path, victim: Victim, labs: list[Lab]) -> None:
    """Arming a target that is to be pinned moves all its threads to one core, whatever is done to it later."""
    target = {"type": "process", "component": "train1", "pin": True}
    lab = started(labs, scratch, victim, [plan_fault("noop", target=target)])
    threads = [int(task.name) for task in Path(f"/proc/{victim.who.pid}/task").iterdir()]
    assert len(threads) == 2
    assert {tuple(os.sched_getaffinity(thread)) for thread in threads} == {(max(os.sched_getaffinity(0)),)}
    assert lab.stop() == 0


def test_nonsense_on_the_seam_harms_nobody(scratch: Path, victim: Victim, labs: list[Lab]) -> None:
    """A client that talks nonsense loses its connection; others go on."""
    lab = started(labs, scratch, victim, [plan_fault("noop")])
    bad, good = Seam(lab.seam), Seam(lab.seam)
    bad._socket.sendall(b"{not json\n")
    assert bad._lines.readline() == b""
    assert good.reach("train", 1) < 10
    assert lab.stop() == 0
    bad.close()
    good.close()


REVERSIBLE = [("process-pause", {}), ("memory-pressure", {"headroom_mib": 16}), ("cpu-contention", {"share_percent": 50})]


@pytest.mark.parametrize(("kind", "params"), REVERSIBLE)
def test_kill_9_of_the_injector_is_undone_by_the_watchdog(
    scratch: Path, victim: Victim, labs: list[Lab], kind: str, params: dict
) -> None:
    """The injector dies in the middle of a fault: within lease + 5 s nothing is left, and the watchdog ends by itself."""
    limits = resource.prlimit(victim.who.pid, resource.RLIMIT_AS)
    lab = started(labs, scratch, victim, [plan_fault(kind, params)])
    watchdog = lab.start_watchdog()
    seam = Seam(lab.seam)
    seam.reach("train", 3)
    record = next(journal.records(lab.journal, "r1"))
    assert record.state in (State.APPLIED, State.VERIFIED)
    lab.process.send_signal(signal.SIGKILL)
    assert watchdog.wait(timeout=lab.lease_s + 5) == 0
    assert next(journal.records(lab.journal, "r1")).state == State.REVERTED
    assert victim.state not in "T"
    assert resource.prlimit(victim.who.pid, resource.RLIMIT_AS) == limits
    assert not [pid for pid, _ in record.undo.get("processes", []) if alive(pid)]
    assert victim.allocate() == "allocated"
    assert [outcome.outcome for outcome in sweep(lab.journal)] == ["reverted"]
    assert list(lab.journal.iterdir()) == []
    seam.close()


def test_a_silent_injector_loses_its_faults(scratch: Path, victim: Victim, labs: list[Lab]) -> None:
    """An injector that hangs loses its lease: the watchdog undoes the fault, and the run is invalid."""
    lab = started(labs, scratch, victim, [plan_fault("process-pause")])
    watchdog = lab.start_watchdog()
    seam = Seam(lab.seam)
    seam.reach("train", 3)
    lab.process.send_signal(signal.SIGSTOP)
    wait_until(lambda: victim.state != "T", "the watchdog wakes the victim", lab.lease_s + 5)
    lab.process.send_signal(signal.SIGCONT)
    assert lab.stop() == 0
    assert "the watchdog undid it" in lab.history("invalid")[-1]["reason"]
    watchdog.wait(timeout=30)
    seam.close()


def test_killed_together_the_next_sweep_undoes(scratch: Path, victim: Victim, labs: list[Lab]) -> None:
    """Injector and watchdog killed at once leave the fault in force; the next sweep takes it away."""
    lab = started(labs, scratch, victim, [plan_fault("process-pause")])
    watchdog = lab.start_watchdog()
    seam = Seam(lab.seam)
    seam.reach("train", 3)
    for process in (watchdog, lab.process):
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert victim.state == "T"
    assert [outcome.outcome for outcome in sweep(lab.journal)] == ["reverted"]
    assert victim.state != "T"
    assert sweep(lab.journal) == []
    seam.close()


def test_a_watchdog_that_is_told_ends_and_touches_nothing(scratch: Path, victim: Victim, labs: list[Lab]) -> None:
    """SIGTERM while the injector lives ends the watchdog and leaves the fault to the injector."""
    lab = started(labs, scratch, victim, [plan_fault("process-pause")])
    watchdog = lab.start_watchdog()
    assert os.getsid(watchdog.pid) == watchdog.pid
    seam = Seam(lab.seam)
    seam.reach("train", 3)
    watchdog.terminate()
    assert watchdog.wait(timeout=30) == 0
    assert victim.state == "T"
    assert lab.stop() == 0
    assert victim.state != "T"
    seam.close()


def test_protected_and_strange_processes_are_refused(scratch: Path, labs: list[Lab]) -> None:
    """PID 1, the lab's own processes, and a pid that belongs to another process by now are refused by name."""
    reasons = []
    me = procfs.identity(os.getpid())
    for who in (procfs.identity(1), me, procfs.Identity(me.pid, me.start_ticks + 1)):
        folder = scratch / str(len(reasons))
        folder.mkdir()
        lab = Lab(folder, [plan_fault("process-kill")], arm_timeout_s=0.2)
        labs.append(lab)
        register(lab.registry, "train1", who)
        lab.start()
        wait_until(lambda lab=lab: bool(lab.history("invalid")), "it is refused")
        reasons.append(lab.history("invalid")[0]["reason"])
        assert lab.stop() == 0
    assert "protected" in reasons[0] and "protected" in reasons[1]


def test_a_bad_spec_is_refused_in_one_line(scratch: Path) -> None:
    """An unknown key in the spec: one sentence naming it, exit code 1."""
    lab = Lab(scratch, [], baud_rate=9600)
    with pytest.raises(AssertionError):
        lab.start()
    assert lab._started[0].wait(timeout=30) == 1
    lab.close()
