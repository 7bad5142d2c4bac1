"""Faults that come again, that a figure sets off, that wait for their target; and what is on disk meanwhile."""

from __future__ import annotations

import json
import signal
from pathlib import Path

from injection import journal
from injection.journal import State
from injection.recover import sweep
from tests.injection.victim import Lab, Seam, Victim, plan_fault, register, started, wait_until


def test_a_fault_comes_again_and_again(scratch: Path, victim: Victim, labs: list[Lab]) -> None:
    """Every second rollout, until it is over: armed, applied, proved and gone anew each time, at the right steps."""
    trigger = {"every": 2, "of": {"stage": "rollout", "when": "enter"}}
    until = {"when": "exit", "stage": "rollout"}
    lab = started(labs, scratch, victim, [plan_fault("process-pause", trigger=trigger, until=until)])
    seam = Seam(lab.seam)
    for step in range(6):
        seam.reach("rollout", step)
        assert (victim.state == "T") == (step % 2 == 1)
        wait_until(lambda times=(step + 1) // 2: len(lab.history("verified")) == times, "it is proved")
        seam.reach("rollout", step, "exit")
        assert victim.state != "T"
        wait_until(lambda times=(step + 1) // 2: len(lab.history("armed")) == 1 + times, "it is armed again")
    assert lab.stop() == 0
    for word in ("fired", "applied", "verified", "reverted", "gone"):
        assert len(lab.history(word)) == 3
    assert [(line["step"], line["stage"]) for line in lab.history("applied")] == [(step, "rollout") for step in (1, 3, 5)]
    assert not lab.history("invalid") and not lab.history("expired") and not lab.history("skipped")
    assert list(lab.journal.iterdir()) == []
    seam.close()


def test_what_is_still_in_force_is_not_done_twice(scratch: Path, victim: Victim, labs: list[Lab]) -> None:
    """A point that comes while the fault of the time before is in force is told as skipped; the barrier is held as ever."""
    trigger = {"every": 1, "of": {"stage": "rollout", "when": "enter"}}
    lab = started(
        labs,
        scratch,
        victim,
        [plan_fault("process-pause", trigger=trigger, until={"event": {"stage": "train", "when": "exit"}})],
    )
    seam = Seam(lab.seam)
    seam.reach("rollout", 0)
    lab.wait_for("verified")
    assert seam.reach("rollout", 1) >= 0.05
    assert lab.history("skipped")[0]["reason"] == "it was fired when it was to come again"
    seam.reach("train", 1, "exit")
    assert victim.state != "T"
    assert lab.stop() == 0
    assert len(lab.history("fired")) == len(lab.history("gone")) == 1
    seam.close()


def test_a_figure_of_the_job_fires(scratch: Path, victim: Victim, labs: list[Lab]) -> None:
    """When the job writes that its rate has fallen below the bound, the fault is done, without any announcement."""
    stats = scratch / "stats"
    stats.mkdir()
    trigger = {"metric": "samples_per_s", "who": "rollout", "below": 40.0}
    lab = started(labs, scratch, victim, [plan_fault("process-pause", trigger=trigger)], stats_dir=str(stats))
    told = {"wall_s": 1.0, "mono_s": 1.0, "step": 4, "stage": "rollout", "metric": "samples_per_s", "unit": "samples/s"}
    with (stats / "controller.jsonl").open("a", buffering=1) as file:
        file.write(json.dumps({**told, "value": 10.0}) + "\n")  # the controller's own
        file.write(json.dumps({**told, "component": "rollout1", "value": 50.0}) + "\n")
        file.write("{torn\n")
        assert not lab.history("fired")
        line = json.dumps({**told, "component": "rollout1", "value": 39.0})
        file.write(line[:20])
        file.write(line[20:] + "\n")
    lab.wait_for("verified")
    assert victim.state == "T"
    assert [(line["step"], line["stage"]) for line in lab.history("fired")] == [(4, "rollout")]
    assert lab.stop() == 0


def test_undoing_is_on_disk_since_arming(scratch: Path, victim: Victim, labs: list[Lab]) -> None:
    """An armed fault's record says `applying` and holds its undo; killed now, nothing is in force and the sweep closes it."""
    lab = started(
        labs, scratch, victim, [plan_fault("process-pause"), plan_fault("cpu-contention", {"share_percent": 50}, id="f2")]
    )
    for record in journal.records(lab.journal, "r1"):
        assert record.state == State.APPLYING and record.undo
    lab.process.kill()
    lab.process.wait()
    assert [outcome.outcome for outcome in sweep(lab.journal)] == ["reverted", "reverted"]
    assert victim.state != "T"
    assert list(lab.journal.iterdir()) == []


def test_a_record_closed_meanwhile_is_written_again_before_the_fault_is_done(
    scratch: Path, victim: Victim, labs: list[Lab]
) -> None:
    """A watchdog took the silent injector's armed fault for undone: what is then applied is on disk as in force, and undone."""
    lab = started(labs, scratch, victim, [plan_fault("process-pause")])
    watchdog = lab.start_watchdog()
    lab.process.send_signal(signal.SIGSTOP)
    wait_until(
        lambda: next(journal.records(lab.journal, "r1")).state == State.REVERTED, "the watchdog closes it", lab.lease_s + 5
    )
    lab.process.send_signal(signal.SIGCONT)
    seam = Seam(lab.seam)
    seam.reach("train", 3)
    assert victim.state == "T"
    assert next(journal.records(lab.journal, "r1")).state == State.APPLIED
    lab.process.kill()
    assert watchdog.wait(timeout=lab.lease_s + 5) == 0
    assert victim.state != "T"
    seam.close()


def test_what_is_not_there_yet_is_waited_for(scratch: Path, victim: Victim, labs: list[Lab]) -> None:
    """The file of a shared device comes some time after its worker has registered: then the co-tenant takes what is free."""
    (scratch / "config.json").write_text(json.dumps({"device": "cpu", "colocated": True, "arena_path": "arena"}))
    fault = plan_fault("memory-pressure", {"where": "device", "headroom_mib": 4})
    lab = Lab(scratch, [fault])
    labs.append(lab)
    lab.start()
    register(lab.registry, "train1", victim.who)
    wait_until(lambda: (scratch / "registry" / "train1.json").exists(), "it has registered")
    assert not lab.history("armed") and not lab.history("invalid")
    (scratch / "arena").mkdir()
    (scratch / "arena" / "node1").write_bytes(bytes(16 << 20))
    lab.wait_for("armed")
    seam = Seam(lab.seam)
    seam.reach("train", 3)
    assert lab.wait_for("verified")["receipt"]["measured"]["held_bytes"] == 12 << 20
    assert lab.stop() == 0
    seam.close()
