"""The little of Prefect's REST API that the command needs, without importing Prefect (which costs a second)."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
import uuid
from typing import Any

from injection.procfs import Identity

#: A Prefect run in one of these will not change any more.
FINAL = ("COMPLETED", "FAILED", "CANCELLED", "CRASHED")

#: What Prefect answers when SQLite is locked; its own client asks again, too.
BUSY = 503


class ServerError(RuntimeError):
    """The server is not there, or refused."""


class _BusyError(ServerError):
    """The server is there and has no time: SQLite was locked, or it did not answer soon enough."""


class Api:
    """A server by its API address, e.g. ``http://127.0.0.1:4200/api``. Every request may be repeated without harm."""

    def __init__(self, url: str, timeout_s: float = 15.0) -> None:
        self.url = url.rstrip("/")
        self.timeout_s = timeout_s
        # A proxy of the user's environment must not stand between two processes of one machine.
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open

    def call(self, method: str, path: str, body: dict[str, Any] | None = None, patience_s: float = 60.0) -> Any:
        """One request; the answer as JSON. A busy server is asked again for ``patience_s`` seconds.

        Raises `ServerError` with one sentence.
        """
        deadline = time.monotonic() + patience_s
        while True:
            try:
                return self._ask(method, path, body)
            except _BusyError:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(0.5)

    def _ask(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}{path}", data=data, method=method, headers=headers)  # noqa: S310 - ours
        try:
            with self._open(request, timeout=self.timeout_s) as answer:
                text = answer.read()
        except urllib.error.HTTPError as refusal:
            kind = _BusyError if refusal.code == BUSY else ServerError
            raise kind(f"the Prefect server refused {method} {path}: {refusal.code} {_detail(refusal.read())}") from None
        except TimeoutError:
            raise _BusyError(f"the Prefect server at {self.url} did not answer within {self.timeout_s:.0f} s") from None
        except OSError as error:
            raise ServerError(f"no Prefect server answers at {self.url}: {error}") from None
        return json.loads(text) if text else None

    def healthy(self) -> bool:
        """Whether the server answers."""
        try:
            return bool(self.call("GET", "/health", patience_s=0))
        except ServerError:
            return False

    def wait_healthy(self, server: Identity, within_s: float) -> None:
        """Until the server answers; gives up when its process is gone or after ``within_s`` seconds."""
        deadline = time.monotonic() + within_s
        while not self.healthy():
            if not server.alive():
                raise ServerError("the Prefect server ended while starting")
            if time.monotonic() > deadline:
                raise ServerError(f"the Prefect server did not answer within {within_s:.0f} s")
            time.sleep(0.2)

    def deployments(self) -> list[str]:
        """Names as Prefect wants them: ``flow/deployment``."""
        flows = {f["id"]: f["name"] for f in self.call("POST", "/flows/filter", {})}
        return sorted(f"{flows[d['flow_id']]}/{d['name']}" for d in self.call("POST", "/deployments/filter", {}))

    def workers_online(self, pool: str) -> int:
        """How many workers serve the pool; 0 also when there is no such pool yet."""
        try:
            found = self.call("POST", f"/work_pools/{pool}/workers/filter", {})
        except ServerError:
            return 0
        return sum(worker["status"] == "ONLINE" for worker in found)

    def start(self, deployment: str, parameters: dict[str, Any]) -> dict[str, Any]:
        """Start a run of ``flow/deployment``; returns the flow run. Its name is the flow's until it begins and names itself."""
        found = self.call("GET", f"/deployments/name/{deployment}")
        body = {
            "name": deployment.split("/")[0],
            "parameters": parameters,
            "state": {"type": "SCHEDULED"},
            "idempotency_key": uuid.uuid4().hex,
        }
        return dict(self.call("POST", f"/deployments/{found['id']}/create_flow_run", body))

    def flow_run(self, run: str) -> dict[str, Any]:
        """One flow run."""
        return dict(self.call("GET", f"/flow_runs/{run}"))

    def children(self, run: str) -> list[dict[str, Any]]:
        """The subflow runs of a flow run, in order of creation."""
        body = {"flow_runs": {"parent_flow_run_id": {"any_": [run]}}, "sort": "EXPECTED_START_TIME_ASC"}
        return list(self.call("POST", "/flow_runs/filter", body))

    def running(self) -> list[dict[str, Any]]:
        """Flow runs that are not over."""
        types = ["PENDING", "RUNNING", "CANCELLING", "PAUSED"]
        return list(self.call("POST", "/flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": types}}}}))

    def cancel(self, run: str) -> None:
        """Ask for the cancellation of a flow run."""
        body = {"state": {"type": "CANCELLING", "message": "cancelled by faultline"}, "force": False}
        self.call("POST", f"/flow_runs/{run}/set_state", body)

    def crash(self, run: str, why: str) -> None:
        """Say that a flow run's process is gone, when it could not say so itself."""
        self.call("POST", f"/flow_runs/{run}/set_state", {"state": {"type": "CRASHED", "message": why}, "force": True})

    def close_orphans(self, parent: str) -> list[str]:
        """Call crashed what is not over below a run that is; returns names."""
        left = [child for child in self.children(parent) if child["state_type"] not in FINAL]
        for child in left:
            self.crash(child["id"], "its parent's process was killed")
        return [child["name"] for child in left]

    def logs(self, runs: list[str], since: str) -> list[dict[str, Any]]:
        """Log lines of these flow runs after the instant ``since`` (ISO 8601), in order of time; 200 at most."""
        wanted = {"flow_run_id": {"any_": runs}, "timestamp": {"after_": since}}
        return list(self.call("POST", "/logs/filter", {"logs": wanted, "sort": "TIMESTAMP_ASC", "limit": 200}))

    def table(self, run: str, key: str) -> list[dict[str, Any]]:
        """The rows of a run's table artifact; none if it made none."""
        body = {"artifacts": {"flow_run_id": {"any_": [run]}, "key": {"any_": [key]}}, "sort": "CREATED_DESC"}
        found = self.call("POST", "/artifacts/filter", body)
        return list(json.loads(found[0]["data"])) if found else []


def _detail(body: bytes) -> str:
    try:
        found = json.loads(body)
    except ValueError:
        return body.decode(errors="replace")[:200]
    return str(found.get("detail", found))[:300] if isinstance(found, dict) else str(found)[:300]
