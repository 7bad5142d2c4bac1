"""The real embedded stack, from an empty home to an empty process table. Also what holds the fastapi version."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows import stack
from flows.api import FINAL, Api
from flows.follow import Follower
from flows.processes import descendants, send
from flows.worker import DEPLOYMENTS, POOL

pytestmark = [pytest.mark.job, pytest.mark.timeout(600)]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty home and a machine lock of its own; a stack left up by a failing test is ended."""
    monkeypatch.setenv("FAULTLINE_HOME", str(tmp_path / "lab"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")  # the user's own Prefect: must not be looked at
    monkeypatch.setenv("PREFECT_PROFILE", "nonsense")
    yield tmp_path / "lab"
    stack.down()


def ended(api: Api, run: str) -> dict[str, object]:
    """The run, once it is over; bounded by the pytest time-out."""
    while (found := api.flow_run(run))["state_type"] not in FINAL:
        time.sleep(0.3)
    return found


def flow_process(found: stack.Stack) -> int:
    """The pid of the flow run under way, below the worker."""
    while True:
        for process in descendants(found.processes["worker"]):
            words = Path(f"/proc/{process.pid}/cmdline").read_text().split("\0")
            if "prefect.engine" in words or "prefect.flow_engine" in words:
                return process.pid
        time.sleep(0.1)


def test_stack_lives_and_dies(home: Path) -> None:
    """From an empty home the stack comes up with every deployment, runs a flow, and goes without leaving a process."""
    found, started = stack.up()
    assert started
    api = Api(found.api_url)
    assert api.healthy()
    assert api.deployments() == sorted(DEPLOYMENTS)
    assert api.workers_online(POOL) == 1
    assert stack.up() == (found, False)
    lines: list[str] = []
    end = Follower(api, api.start("blind-diagnosis/blind-diagnosis", {})["id"], lines.append).to_the_end()
    assert (end["name"], end["state_type"]) == ("blind-diagnosis", "COMPLETED")
    assert any("blind-diagnosis: completed" in line for line in lines)
    all_of_it = [process for root in found.processes.values() for process in (root, *descendants(root))]
    assert len(stack.down()) == 2
    assert [process for process in all_of_it if process.alive()] == []
    assert stack.down() == []
    assert stack.load_stack().port == found.port  # type: ignore[union-attr]


def test_ended_runs_sweep(home: Path) -> None:
    """Hooks run where Prefect runs them: cancelled and killed, a matrix sweeps the journal and leaves no run open."""
    found, _ = stack.up()
    api = Api(found.api_url)
    holder = subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, env=os.environ)
    try:
        assert holder.stdout
        holder.stdout.readline()  # the machine is taken, so each run below waits inside its first cell
        for kill, state in ((False, "CANCELLED"), (True, "CRASHED")):
            run = api.start("fault-matrix/fault-matrix", {"scenarios": [], "baselines": 1})["id"]
            while not api.children(run):
                time.sleep(0.2)
            pid = flow_process(found)
            if kill:
                send(stack.identity(pid), 9)
            else:
                api.cancel(run)
            assert ended(api, run)["state_type"] == state
            cells = [child["id"] for child in api.children(run)]
            while not (told := _told(api, [run, *cells])) or any(
                api.flow_run(cell)["state_type"] not in FINAL for cell in cells
            ):
                time.sleep(0.3)
            assert "sweeping the journal" in told
    finally:
        holder.kill()
        holder.wait()


HOLD = """
import time
from tasks.machine_lock import machine_lock
with machine_lock("a test"):
    print("held", flush=True)
    time.sleep(600)
"""


def _told(api: Api, runs: list[str]) -> str:
    lines = api.logs(runs, "2020-01-01T00:00:00Z")
    return "\n".join(line["message"] for line in lines if "sweeping the journal" in line["message"])


def test_a_stack_that_cannot_start_leaves_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the server ends at once the error says what it last said, and nothing stays behind."""
    (home / "prefect").mkdir(parents=True)
    (home / "prefect" / "prefect.db").write_text("this is no database")
    with pytest.raises(stack.StackError, match="the Prefect server ended while waiting"):
        stack.up()
    assert stack.load_stack().processes == {}  # type: ignore[union-attr]
