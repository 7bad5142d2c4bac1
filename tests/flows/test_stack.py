"""The real embedded stack, from an empty home to an empty process table. Also what holds the fastapi version."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flows import stack
from flows.api import FINAL, Api
from flows.follow import Follower
from flows.processes import descendants, send
from flows.worker import DEPLOYMENTS, POOL
from injection.procfs import Identity
from storage.layout import stack_logs

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


def until(what: str, look: Callable[[], object], within_s: float = 180.0) -> None:
    """Wait until ``look`` finds something; fails with the worker's last words when its time is over."""
    deadline = time.monotonic() + within_s
    while not look():
        assert time.monotonic() < deadline, (
            f"{what}: not within {within_s} s; worker: {(stack_logs() / 'worker.log').read_text()[-3000:]}"
        )
        time.sleep(0.3)


def over(api: Api, run: str) -> bool:
    return api.flow_run(run)["state_type"] in FINAL


def flow_processes(found: stack.Stack) -> list[Identity]:
    """The processes of flow runs under way, below the worker."""
    below = descendants(found.processes["worker"])
    return [process for process in below if b"prefect.engine" in Path(f"/proc/{process.pid}/cmdline").read_bytes()]


def test_stack_lives_and_dies(home: Path) -> None:
    """From an empty home the stack comes up with every deployment, runs a flow, and goes without leaving a process."""
    found, started = stack.up()
    assert started
    api = Api(found.api_url)
    assert api.healthy()
    assert api.deployments() == sorted(DEPLOYMENTS)
    assert api.workers_online(POOL) == 1
    assert not (home.parent / "runner_storage").exists()  # Prefect's in the common /tmp belongs to the user who came first
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
    """Hooks run where Prefect runs them: cancelled and killed, a matrix is looked after and no run is left open."""
    found, _ = stack.up()
    api = Api(found.api_url)
    holder = subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, env=os.environ)
    try:
        assert holder.stdout
        holder.stdout.readline()  # the machine is taken, so each run below waits inside its first cell
        for kill, state in ((False, "CANCELLED"), (True, "CRASHED")):
            run = api.start("fault-matrix/fault-matrix", {"scenarios": [], "baselines": 1})["id"]
            until("the first cell begins", lambda run=run: api.children(run))
            if kill:
                send(flow_processes(found)[0], signal.SIGKILL)
            else:
                api.cancel(run)
            until("the run is over", lambda run=run: over(api, run))
            assert api.flow_run(run)["state_type"] == state
            cells = [child["id"] for child in api.children(run)]
            until("its cells are over", lambda cells=cells: all(over(api, cell) for cell in cells))
            until("a hook says so", lambda runs=(run, *cells): _told(api, list(runs)))
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


def _told(api: Api, runs: list[str]) -> list[str]:
    """What the hook said."""
    lines = api.logs(runs, "2020-01-01T00:00:00Z")
    return [line["message"] for line in lines if "looking for what it left" in line["message"]]


def test_a_stack_that_cannot_start_leaves_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the server ends at once the error says what it last said, and nothing stays behind."""
    (home / "prefect").mkdir(parents=True)
    (home / "prefect" / "prefect.db").write_text("this is no database")
    with pytest.raises(stack.StackError, match="the Prefect server ended while waiting"):
        stack.up()
    assert stack.load_stack().processes == {}  # type: ignore[union-attr]
