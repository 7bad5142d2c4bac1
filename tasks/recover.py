"""Recover: leave the machine as if no run had ever been interrupted on it. Safe to call again and again."""

from __future__ import annotations

import time
from pathlib import Path

import psutil

from injection.agent.agent import recover as recover_agent
from injection.recover import Outcome, sweep
from injection.strays import end_abandoned
from storage.layout import agent_dir, journal_dir
from tasks.unfinished import close_abandoned
from tasks.waiting import LabError

#: How long a watchdog, a keeper or the kernel may still be busy with a run whose lab has just ended, s.
ENDING_S = 15.0
POLL_S = 0.2


def recover() -> list[Outcome]:
    """End strays of dead places, undo what the journal tells of, and call runs crashed that nobody can finish any more.

    The caller holds the machine (`tasks.machine_lock`): a run under way would be taken for an interrupted one.
    Returns what became of each fault; ``stuck`` ones stay in the journal.
    """
    deadline = time.monotonic() + ENDING_S
    while _watchdogs() and time.monotonic() < deadline:
        time.sleep(POLL_S)
    end_abandoned()
    found = _swept()
    while any(outcome.outcome == "stuck" for outcome in found.values()) and time.monotonic() < deadline:
        time.sleep(POLL_S)
        found |= _swept()
    close_abandoned()
    return list(found.values())


def ready_machine() -> list[Outcome]:
    """`recover` before a run. Raises LabError where a fault is still in force: it would be the new run's as well."""
    outcomes = recover()
    stuck = [str(outcome) for outcome in outcomes if outcome.outcome == "stuck"]
    if stuck:
        raise LabError(f"an earlier fault cannot be undone, so nothing is started: {'; '.join(stuck)}")
    return outcomes


def _swept() -> dict[tuple[str, str], Outcome]:
    """Of runs, and of a host agent of this home that is gone."""
    outcomes = [*sweep(journal_dir()), *recover_agent(agent_dir())]
    return {(outcome.run_id, outcome.fault_id): outcome for outcome in outcomes}


def _watchdogs() -> list[psutil.Process]:
    """Watchdogs of this home that still undo what an ended run left; they end by themselves."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "injection.watchdog" in words and any(Path(word) == journal_dir() for word in words):
            found.append(process)
    return found
