"""The embedded stack: a Prefect server on SQLite, the deployments of prefect.yaml and one process worker.

Everything lies under ``FAULTLINE_HOME``; the user's own Prefect (profile, home, environment) is neither read nor touched.
What was started is recorded by pid and start time, so that `down` ends exactly that.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from flows.api import FINAL, Api, ServerError
from flows.processes import descendants, end
from flows.worker import DEPLOYMENTS, POOL
from injection.procfs import Identity, identity
from storage.layout import home, prefect_home, stack_file, stack_logs

START_S = 180.0
#: What a cancelled experiment may take to undo its faults and end its processes.
CANCEL_S = 60.0


class StackError(RuntimeError):
    """The stack could not be started."""


@dataclass(frozen=True)
class Stack:
    """What runs: processes by role ("server", "worker") and the port of the server."""

    port: int
    processes: dict[str, Identity]

    @property
    def api_url(self) -> str:
        """Where Prefect's API answers."""
        return f"http://127.0.0.1:{self.port}/api"

    @property
    def ui_url(self) -> str:
        """What a person opens in a browser."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def up(self) -> bool:
        """Whether both processes live; `Api.healthy` says whether they answer."""
        return set(self.processes) == {"server", "worker"} and all(p.alive() for p in self.processes.values())

    def save(self) -> None:
        """Write to stack.json, at once and whole."""
        data = {"port": self.port, "processes": {name: asdict(p) for name, p in self.processes.items()}}
        fresh = stack_file().with_suffix(".new")
        fresh.write_text(json.dumps(data, indent=2) + "\n")
        fresh.replace(stack_file())


def load_stack() -> Stack | None:
    """What stack.json tells, dead or alive; None if nothing was ever started in this home."""
    try:
        data = json.loads(stack_file().read_text())
        return Stack(int(data["port"]), {name: Identity(**p) for name, p in data["processes"].items()})
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise StackError(f"{stack_file()} is damaged ({error}); look for its processes, end them, then remove it") from None


def exports(port: int) -> dict[str, str]:
    """Environment by which Prefect's own commands reach this stack and no other."""
    return {
        "FAULTLINE_HOME": str(home()),
        "PREFECT_HOME": str(prefect_home()),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def environment(port: int) -> dict[str, str]:
    """Environment of the stack's processes: the user's without any PREFECT_ variable, then ours."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    ours = {
        "PREFECT_LOGGING_EXTRA_LOGGERS": "faultline",
        "PREFECT_LOGGING_TO_API_BATCH_INTERVAL": "0.5",
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        "PYTHONUNBUFFERED": "1",
        # Prefect runs hooks as a script in its own folder `runner`, where a storage.py would hide our room `storage`.
        "PYTHONSAFEPATH": "1",
        "NO_COLOR": "1",
    }
    return kept | exports(port) | ours


def up(progress: Callable[[str], None] = lambda _: None) -> tuple[Stack, bool]:
    """The running stack, and whether this call started it. Raises `StackError`; then nothing of it is left running."""
    with _one_at_a_time():
        found = load_stack()
        if found and found.up and Api(found.api_url).healthy():
            return found, False
        if found:
            _end(found)
        stack = Stack(_free_port(found.port if found else None), {})
        try:
            stack = _start(stack, progress)
        except BaseException:  # also Ctrl-C: nothing half started may stay
            _end(load_stack() or stack)
            raise
        return stack, True


def down() -> list[str]:
    """Cancel what runs, then end the stack; returns what was ended, in words."""
    with _one_at_a_time():
        stack = load_stack()
        if not stack or not any(p.alive() for p in stack.processes.values()):
            return []
        words = [f"{name} (pid {p.pid})" for name, p in stack.processes.items() if p.alive()]
        if stack.up:
            cancelled = cancel_all(Api(stack.api_url))
            words = [f"run {name}" for name in cancelled] + words
        _end(stack)
        return words


def cancel_all(api: Api) -> list[str]:
    """Cancel every flow run that is not over and wait for it; returns their names. Silent when no server answers."""
    try:
        runs = [run for run in api.running() if run["parent_task_run_id"] is None]  # a subflow ends with its parent
        for run in runs:
            api.cancel(run["id"])
        deadline = time.monotonic() + CANCEL_S
        while any(api.flow_run(run["id"])["state_type"] not in FINAL for run in runs) and time.monotonic() < deadline:
            time.sleep(0.5)
    except ServerError:
        return []
    return [run["name"] for run in runs]


def _start(stack: Stack, progress: Callable[[str], None]) -> Stack:
    progress(f"starting the Prefect server on {stack.ui_url}")
    words = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(stack.port)]
    server = _spawn(stack, "server", words)
    stack = Stack(stack.port, {"server": server})
    stack.save()
    worker = _spawn(stack, "worker", [sys.executable, "-m", "flows.worker", str(server.pid), str(server.start_ticks)])
    stack = Stack(stack.port, {"server": server, "worker": worker})
    stack.save()
    api = Api(stack.api_url)
    _wait(stack, "the Prefect server to answer", api.healthy)
    progress("deploying flows and starting the worker")
    _wait(stack, "the deployments", lambda: set(DEPLOYMENTS) <= set(api.deployments()))
    _wait(stack, "the worker to come online", lambda: api.workers_online(POOL) > 0)
    return stack


def _spawn(stack: Stack, name: str, words: list[str]) -> Identity:
    """Start a process in a session of its own (Ctrl-C in the terminal is ours to handle) with its log under the home."""
    with _log(name).open("w") as log:
        child = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment(stack.port),
            cwd=stack_logs(),  # Prefect reads .env and prefect.toml of its working folder: here are none
            start_new_session=True,
        )
    return identity(child.pid)


def _wait(stack: Stack, what: str, ready: Callable[[], bool]) -> None:
    """Until ``ready``; gives up when a process of the stack has ended, or after `START_S` seconds."""
    deadline = time.monotonic() + START_S
    while not ready():
        for name, process in stack.processes.items():
            if not process.alive():
                raise StackError(f"the Prefect {name} ended while waiting for {what}: {_last_line(name)} (log: {_log(name)})")
        if time.monotonic() > deadline:
            raise StackError(f"waited {START_S:.0f} s for {what}, in vain (logs: {stack_logs()})")
        time.sleep(0.2)


def _end(stack: Stack) -> None:
    """Flow runs first and with time to undo their faults, then the worker, then the server."""
    worker = stack.processes.get("worker")
    if worker:
        below = descendants(worker)
        end(below, CANCEL_S)
        end([worker], 10.0)
        end([p for p in below if p.alive()], 5.0)
    server = stack.processes.get("server")
    if server:
        end([server, *descendants(server)], 10.0)
    Stack(stack.port, {}).save()  # the port is kept for the next time


def _free_port(last: int | None) -> int:
    """The port of the last time if it is free, else any free one."""
    for port in (last, 0):
        if port is None:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise StackError("no free port on 127.0.0.1")


def _log(name: str) -> Path:
    return stack_logs() / f"{name}.log"


def _last_line(name: str) -> str:
    lines = [line.strip() for line in _log(name).read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it printed nothing"


@contextlib.contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Two commands at once must not start two stacks in one home."""
    with (home() / "stack.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
