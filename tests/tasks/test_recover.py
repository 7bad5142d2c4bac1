"""The start after an interrupted run: clean, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from flows.commands.experiment import recover as recover_command
from injection import journal
from injection.journal import State
from storage.layout import journal_dir, run_paths
from storage.manifest import load_manifest, start_manifest
from tasks.recover import ready_machine, recover
from tasks.waiting import LabError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAULTLINE_HOME", str(tmp_path))


def test_an_interrupted_run_is_closed_in_journal_and_manifest() -> None:
    """What the killed lab could not write is written: the fault undone, its lease forgotten, the run crashed."""
    paths = run_paths("r1").create()
    start_manifest(paths, profile="smoke", workload="grpo", posture="legacy", place="plain-host")
    record = journal.new_record("r1", "f1", "noop", "none", 5.0)
    journal.write(journal_dir(), journal.advance(journal_dir(), record, State.APPLIED))
    journal.renew_lease(journal_dir(), "r1", 5.0)
    assert [str(outcome) for outcome in ready_machine()] == ["noop f1 of run r1: reverted"]
    assert list(journal_dir().iterdir()) == []
    assert load_manifest(paths).state == "crashed"
    assert recover() == []


def test_nothing_starts_while_a_fault_is_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be undone refuses the next start by name, and `faultline recover` shows it and fails, until it is gone."""
    monkeypatch.setattr("tasks.recover.ENDING_S", 0.3)
    torn = journal_dir() / "r2.f1.json"
    torn.write_text("{")
    for _ in range(2):
        with pytest.raises(LabError, match=r"an earlier fault cannot be undone.*r2\.f1\.json is not a fault record"):
            ready_machine()
    shown = CliRunner().invoke(recover_command)
    assert shown.exit_code == 1 and "stuck" in shown.output and "is not a fault record" in " ".join(shown.output.split())
    torn.unlink()
    assert ready_machine() == []
