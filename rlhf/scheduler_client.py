"""The controller's side of the scheduler: submit, wait until workers listen, cancel."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import requests

from rlhf.config import JobConfig
from rlhf.errors import FrameworkError
from rlhf.links import open_session
from rlhf.stats import StatsTracker

logger = logging.getLogger(__name__)

JOBS_URL = "http://scheduler/api/v1/AsystemJobs"
POLL_S = 0.1


class SchedulerClient:
    """Remembers what it submitted, in order."""

    def __init__(self, config: JobConfig, stats: StatsTracker):
        self._config, self._stats = config, stats
        self._session = open_session("controller", "scheduler", "scheduler")
        self._uids: list[str] = []
        self._job_of: dict[str, str] = {}
        #: Told of components that were started again, once they listen.
        self.restarted: Callable[[Sequence[str]], None] = lambda _: None

    def submit(self, name: str, components: list[str], beside: str = "") -> str:
        """Submit a job, on the hosts of job ``beside`` if one is given; returns its uid.

        Waits for the scheduler itself to listen. Raises FrameworkError (SchedulerError).
        """
        deadline = time.monotonic() + self._config.timeout_s("init")
        asked: dict[str, Any] = {"name": name, "components": components}
        asked |= {"scheduleStrategy": {"type": "colocation", "uid": beside}} if beside else {}
        asked |= {"portStrategy": {"type": "auto"}} if self._config.port_strategy == "auto" else {}
        while True:
            try:
                answer = self._ask("POST", JOBS_URL, self._config.timeout_s("init"), asked)
            except requests.ConnectionError as error:
                if time.monotonic() > deadline:
                    raise FrameworkError("SchedulerError", f"the scheduler does not answer: {error}") from error
                time.sleep(POLL_S)
            else:
                break
        self._uids.append(answer["uid"])
        self._job_of |= dict.fromkeys(components, answer["uid"])
        logger.info("submitted job %s with UID: %s", name, answer["uid"])
        return str(answer["uid"])

    def wait_registered(self) -> None:
        """Until every worker listens. Raises FrameworkError naming those that ended or are missing."""
        deadline = time.monotonic() + self._config.timeout_s("init")
        while True:
            workers = self._workers()
            ended = [_told(worker) for worker in workers if _ended(worker)]
            missing = [worker["name"] for worker in workers if not worker["ports"]]
            if ended:
                raise FrameworkError("SchedulerError", f"worker(s) ended before the job began: {', '.join(ended)}")
            if not missing:
                return
            if time.monotonic() > deadline:
                text = f"no registration within {self._config.timeout_s('init'):.0f}s from {', '.join(missing)}"
                raise FrameworkError("SchedulerError", text)
            time.sleep(POLL_S)

    def ended(self) -> list[str]:
        """Components that were submitted and have ended. Raises FrameworkError (SchedulerError)."""
        try:
            return [worker["name"] for worker in self._workers() if _ended(worker)]
        except requests.RequestException as error:
            raise FrameworkError("SchedulerError", f"the scheduler does not say who has ended: {error}") from error

    def restart_workers(self, components: Sequence[str], wait_s: float) -> None:
        """End workers, start them again, and wait until they listen. Raises FrameworkError (SchedulerError)."""
        names, deadline = ", ".join(components), time.monotonic() + wait_s
        try:
            for component in components:
                self._ask("POST", f"{JOBS_URL}/{self._job_of[component]}/restart/{component}", wait_s)
            while missing := [worker for worker in self._workers(components) if not worker["ports"]]:
                if ended := [worker["name"] for worker in missing if _ended(worker)]:
                    raise FrameworkError("SchedulerError", f"restart of {names}: {', '.join(ended)} ended before it listened")
                if time.monotonic() > deadline:
                    silent = ", ".join(worker["name"] for worker in missing)
                    raise FrameworkError("SchedulerError", f"restart of {names}: no sign of {silent} within {wait_s:.0f}s")
                time.sleep(POLL_S)
        except requests.RequestException as error:
            raise FrameworkError("SchedulerError", f"restart of {names}: {error}") from error
        self.restarted(components)

    def cleanup_jobs(self, level: int = logging.ERROR) -> list[Exception]:
        """Cancel every job, in order of submission. An error is logged at ``level`` and returned, and the next one is tried."""
        errors: list[Exception] = []
        while self._uids:
            uid = self._uids.pop(0)
            logger.info("Stopping job with UID: %s", uid)
            try:
                with self._stats.record_call("scheduler", "stop_job", "cleanup"):
                    self._ask("POST", f"{JOBS_URL}/{uid}/cancel", self._config.timeout_s("stop_job"))
            except (requests.RequestException, FrameworkError) as error:
                told = "Request timeout" if isinstance(error, requests.Timeout) else error
                logger.log(level, "Error stopping job %s: %s", uid, told)
                errors.append(error)
        logger.info("scheduler cleanup_jobs finished")
        return errors

    def _workers(self, components: Sequence[str] = ()) -> list[dict[str, Any]]:
        """What the scheduler knows of these workers, or of all."""
        groups = [group for uid in self._uids for group in self._show(uid)["workerGroupStatuses"]]
        workers = [container for group in groups for worker in group for container in worker["containerStatuses"]]
        return [worker for worker in workers if not components or worker["name"] in components]

    def _show(self, uid: str) -> dict[str, Any]:
        return self._ask("GET", f"{JOBS_URL}/{uid}", self._config.timeout_s("init"))

    def _ask(self, method: str, url: str, timeout_s: float, body: Any = None) -> dict[str, Any]:
        response = self._session.request(method, url, json=body, timeout=timeout_s)
        if not response.ok:
            raise FrameworkError("SchedulerError", f"HTTP {response.status_code}: {response.text}")
        answer: dict[str, Any] = response.json()
        return answer


def _ended(worker: dict[str, Any]) -> bool:
    return worker["exitCode"] is not None


def _told(worker: dict[str, Any]) -> str:
    """A worker that has ended, and the last line it said."""
    words = worker["lastWords"].strip().splitlines()
    return f"{worker['name']} (exit code {worker['exitCode']}{': ' + words[-1] if words else ''})"
