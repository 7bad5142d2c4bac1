"""The flows as Prefect sees them: names, steps, hooks. Nothing here needs a server."""

from __future__ import annotations

import inspect
import signal
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
import yaml
from prefect import Flow, Task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import TerminationSignal
from prefect.states import Crashed
from prefect.utilities.importtools import import_object

from flows import fault_matrix, fault_run, hooks
from flows.worker import DEPLOYMENTS, PREFECT_YAML
from injection import journal, procfs
from storage.layout import journal_dir
from tasks import steps
from tasks.plan import Cell


def deployed() -> dict[str, Flow[Any, Any]]:
    """Deployment name -> flow, from prefect.yaml."""
    found = yaml.safe_load(PREFECT_YAML.read_text())["deployments"]
    return {one["name"]: import_object(one["entrypoint"]) for one in found}


def test_deployments_are_named_as_flows() -> None:
    """Flow and deployment share their name; only nightly-sweep is a further deployment of the matrix."""
    assert {f"{flow.name}/{name}" for name, flow in deployed().items()} == set(DEPLOYMENTS)
    assert {name for name, flow in deployed().items() if flow.name != name} == {"nightly-sweep"}


def test_defaults_fit_the_flows() -> None:
    """The parameters that prefect.yaml gives are parameters of the flow."""
    for one in yaml.safe_load(PREFECT_YAML.read_text())["deployments"]:
        takes = set(inspect.signature(import_object(one["entrypoint"]).fn).parameters)
        assert set(one.get("parameters", {})) <= takes
        assert all(set(schedule.get("parameters", {})) <= takes for schedule in one["schedules"])


def test_nightly_sweep_is_scheduled() -> None:
    """nightly-sweep, and nothing else, has a schedule; it runs more repeats than the smoke profile."""
    scheduled = {
        one["name"]: one["schedules"] for one in yaml.safe_load(PREFECT_YAML.read_text())["deployments"] if one["schedules"]
    }
    assert list(scheduled) == ["nightly-sweep"]
    assert scheduled["nightly-sweep"][0]["cron"] == "0 2 * * *"


def test_no_step_repeats_or_remembers() -> None:
    """No task is retried or cached, and none stores what it returns: a second launch is a second experiment."""
    tasks = [value for value in vars(steps).values() if isinstance(value, Task)]
    assert {task.name for task in tasks} >= {
        "preflight",
        "launch",
        "arm",
        "observe",
        "revert",
        "collect",
        "seal",
        "diagnose",
        "score",
    }
    for task in tasks:
        assert (task.retries, task.persist_result) == (0, False)
        assert task.cache_policy == NO_CACHE
        assert task.task_run_name


def test_flows_that_act_undo() -> None:
    """Every flow that can put a fault in force sweeps the journal when it is cancelled or has crashed."""
    for name in ("fault-run", "fault-matrix", "baseline"):
        flow = deployed()[name]
        assert hooks.undo in flow.on_cancellation_hooks
        assert hooks.undo in flow.on_crashed_hooks


@pytest.mark.parametrize("hook", [hooks.undo, hooks.close_subflows])
def test_hooks_can_be_called_by_keyword(hook: Any) -> None:
    """Prefect calls hooks as hook(flow=, flow_run=, state=); other names fail, and only in the log."""
    assert list(inspect.signature(hook).parameters) == ["flow", "flow_run", "state"]


def test_undo_sweeps_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hook, knowing nothing but the disk, wakes a process that a dead run has left standing still."""
    monkeypatch.setenv("FAULTLINE_HOME", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # a machine of its own
    victim = subprocess.Popen(["sleep", "600"])
    try:
        who = procfs.identity(victim.pid)
        victim.send_signal(signal.SIGSTOP)
        undo = {"pid": who.pid, "start_ticks": who.start_ticks}
        record = journal.new_record("r1", "f1", "process-pause", "process", 5.0)
        journal.write(journal_dir(), replace(record, undo=undo, state=journal.State.APPLIED))
        hooks.undo(flow=fault_run.fault_run, flow_run=FlowRun(flow_id=uuid4(), name="r"), state=Crashed())
        assert procfs.read_stat(victim.pid).state != "T"
        assert list(journal_dir().iterdir()) == []
    finally:
        victim.kill()
        victim.wait()


CELL = Cell("worker-kill", "legacy", 1, "smoke")


def test_failed_cell_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes wrong in one cell becomes a row that is not valid; the matrix goes on."""

    def broken(*_: Any) -> Any:
        raise RuntimeError("no room")

    monkeypatch.setattr(fault_matrix, "fault_run", broken)
    row = fault_matrix.run_cell(CELL, None)
    assert row["valid"] is False
    assert row["run_id"] == ""
    assert "no room" in row["outcome"]


def test_cancelled_cell_ends_the_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    """Being told to end is not caught as a failed cell."""

    def cancelled(*_: Any) -> Any:
        raise TerminationSignal(signal=15)

    monkeypatch.setattr(fault_matrix, "fault_run", cancelled)
    with pytest.raises(TerminationSignal):
        fault_matrix.run_cell(CELL, None)


def run_body(monkeypatch: pytest.MonkeyPatch, fail_in: str) -> list[str]:
    """Run the body of `fault-run` with steps that only note that they were called; one of them raises."""
    called: list[str] = []

    def step(name: str) -> Any:
        def note(*_: Any) -> Any:
            called.append(name)
            if name == fail_in:
                raise TerminationSignal(signal=15)
            return SimpleNamespace(paths=None)

        return note

    names = ("plan", "preflight", "launch", "arm", "observe", "revert", "collect", "seal", "diagnose", "score", "summarise")
    monkeypatch.setattr(fault_run, "steps", SimpleNamespace(**{name: step(name) for name in names}))
    monkeypatch.setattr(fault_run, "revert", lambda _: called.append("revert again"))
    monkeypatch.setattr(fault_run, "cut_short", lambda _, error: called.append(type(error).__name__))
    if fail_in:
        with pytest.raises(TerminationSignal):
            fault_run.fault_run.fn("worker-kill")
    else:
        fault_run.fault_run.fn("worker-kill")
    return called


def test_steps_come_in_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A run goes from plan to score; the faults are undone before anything is collected."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = ["plan", "preflight", "launch", "arm", "observe", "revert"]
    assert run_body(monkeypatch, "") == [*before, "collect", "seal", "diagnose", "score", "summarise"]


@pytest.mark.parametrize("step", ["arm", "observe", "revert"])
def test_ended_run_reverts(step: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ended in the middle by a signal, a run still reverts, without the help of Prefect, and goes no further."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert run_body(monkeypatch, step)[-3:] == [step, "revert again", "TerminationSignal"]
