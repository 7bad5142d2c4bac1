"""An effect that goes before its time, with a helper or by somebody else: the truth says so, and the run does not count."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from injection import journal
from injection.lost import LOOK_S
from injection.measure import ask_here
from report.outcome import invalid_because
from tests.injection.test_network_faults import LINK, Cluster
from tests.injection.victim import Lab, Seam, Victim, plan_fault, started, wait_until

KILL = "import os, sys; os.kill(int(sys.argv[1]), 9)"


def told_lost(lab: Lab) -> bool:
    return any("its helper (process" in line["reason"] for line in lab.history("invalid"))


@pytest.mark.long
def test_a_competitor_that_is_killed_is_noticed(scratch: Path, victim: Victim, labs: list[Lab]) -> None:
    """One of several competitors for a core is killed: told at once, the run is invalid, the others are ended at the end."""
    fault = plan_fault("cpu-contention", {"share_percent": 50})
    lab = started(labs, scratch, victim, [fault])
    helpers = next(journal.records(lab.journal, "r1")).undo["processes"]
    assert len(helpers) > 1
    seam = Seam(lab.seam)
    seam.reach("train", 3)
    lab.wait_for("verified")
    assert not lab.history("invalid")
    os.kill(helpers[0][0], signal.SIGKILL)
    wait_until(lambda: told_lost(lab), "it is told")
    assert lab.stop() == 0
    assert invalid_because({"faults": [fault]}, lab.history()) != []
    assert ask_here("cpu_share", {"processes": helpers, "window_s": 0.01})["alive_count"] == 0
    seam.close()


@pytest.mark.parametrize("again", [False, True], ids=["for-good", "for-a-moment"])
def test_who_is_woken_by_somebody_else_is_noticed(scratch: Path, victim: Victim, labs: list[Lab], again: bool) -> None:
    """A paused process gets a SIGCONT that is not ours, and is stopped again at once or not: told, the run does not count."""
    fault = plan_fault("process-pause")
    lab = started(labs, scratch, victim, [fault])
    seam = Seam(lab.seam)
    seam.reach("train", 3)
    lab.wait_for("verified")
    time.sleep(2 * LOOK_S)  # it has been looked at
    os.kill(victim.who.pid, signal.SIGCONT)
    if again:
        wait_until(lambda: victim.state != "T", "it goes on")
        os.kill(victim.who.pid, signal.SIGSTOP)
    wait_until(lambda: bool(lab.history("invalid")), "it is told")
    assert "somebody else woke train1" in lab.history("invalid")[0]["reason"]
    assert lab.stop() == 0
    assert victim.state != "T" and len(lab.history("invalid")) == 1
    assert invalid_because({"faults": [fault]}, lab.history()) != []
    seam.close()


def test_a_paused_process_that_is_killed_was_not_woken(scratch: Path, victim: Victim, labs: list[Lab]) -> None:
    """Whoever ends a paused process (a job that starts it anew) takes nothing from the fault: the run counts."""
    lab = started(labs, scratch, victim, [plan_fault("process-pause")])
    seam = Seam(lab.seam)
    seam.reach("train", 3)
    lab.wait_for("verified")
    time.sleep(2 * LOOK_S)
    victim.process.kill()
    victim.process.wait()
    time.sleep(3 * LOOK_S)
    assert lab.stop() == 0
    assert not lab.history("invalid") and lab.history("gone")[0]["ok"]
    seam.close()


@pytest.mark.root
@pytest.mark.parametrize("whose", ["ballast", "both"])
def test_a_ballast_that_ends_is_noticed_unless_its_target_went_too(
    scratch: Path, victim: Victim, labs: list[Lab], whose: str
) -> None:
    """A memory group's ballast is killed: told, for the target has more room. With the target, as the kernel may do: not."""
    fault = plan_fault("memory-pressure", {"where": "group", "headroom_mib": 200.0, "ballast_mib": 8.0})
    lab = started(labs, scratch, victim, [fault])
    seam = Seam(lab.seam)
    seam.reach("train", 3)
    lab.wait_for("verified")
    ballast = next(journal.records(lab.journal, "r1")).undo["ballast"][0]
    if whose == "both":
        victim.process.kill()
    os.kill(ballast, signal.SIGKILL)
    if whose == "both":
        time.sleep(4 * LOOK_S)
        assert not lab.history("invalid")
    else:
        wait_until(lambda: bool(lab.history("invalid")), "it is told")
        assert "what filled its memory group" in lab.history("invalid")[0]["reason"]
    assert lab.stop() == 0
    assert lab.history("gone")[0]["ok"]
    seam.close()


def test_undoing_is_not_taken_for_a_loss(scratch: Path, victim: Victim, labs: list[Lab]) -> None:
    """Whoever undoes a fault ends its helpers: of a silent injector's it is told that the watchdog undid it, and no loss."""
    lab = started(labs, scratch, victim, [plan_fault("cpu-contention", {"share_percent": 50})])
    watchdog = lab.start_watchdog()
    seam = Seam(lab.seam)
    seam.reach("train", 3)
    helpers = next(journal.records(lab.journal, "r1")).undo["processes"]
    lab.process.send_signal(signal.SIGSTOP)
    wait_until(lambda: next(journal.records(lab.journal, "r1")).state == journal.State.REVERTED, "the watchdog undoes it")
    lab.process.send_signal(signal.SIGCONT)
    assert lab.stop() == 0
    assert watchdog.wait(30) == 0
    assert not told_lost(lab)
    assert "the watchdog undid it" in lab.history("invalid")[-1]["reason"]
    assert ask_here("cpu_share", {"processes": helpers, "window_s": 0.01})["alive_count"] == 0
    seam.close()


@pytest.mark.job
def test_rules_that_go_with_their_owner_are_noticed(scratch: Path) -> None:
    """Virtual cluster: the owner of a partition's rules is killed, so the link carries again; the truth says since when."""
    fault = plan_fault("network-partition", target=LINK)
    cluster = Cluster(scratch, fault)
    try:
        seam = Seam(cluster.lab.seam)
        seam.reach("train", 3)
        cluster.lab.wait_for("verified")
        undo = next(journal.records(cluster.lab.journal, "r1")).undo
        assert cluster._start("", "kill", "-c", KILL, str(undo["process"][0])).wait(30) == 0
        wait_until(lambda: told_lost(cluster.lab), "it is told")
        assert cluster.rate("train1") > 0
        cluster.injector.signal(15)
        assert cluster.injector.wait(60) == 0
        assert cluster.lab.history("gone")[0]["ok"]
        assert invalid_because({"faults": [fault]}, cluster.lab.history()) != []
        seam.close()
    finally:
        cluster.place.close()
