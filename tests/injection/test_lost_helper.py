"""A helper that ends in the middle of a fault takes the effect along: the truth says so, and the run does not count."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from injection import journal
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
