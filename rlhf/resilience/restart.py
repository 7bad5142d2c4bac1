"""A client that has a hung server restarted: a time-out triggers it, other requests wait, and lost ones are sent again."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

import requests

from rlhf.request_id import REQUEST_ID
from rlhf.resilience.restart_metrics import RestartMetrics
from rlhf.resilience.restart_protocol import HEALTH, INSTANCE, RESTART, RestartSettings, route_url

logger = logging.getLogger(__name__)

#: How the answer to a request that was given up began, before that became an error.
SKIPPED = "[TIMEOUT_SKIPPED]"


class RequestLostError(Exception):
    """A request that has no answer, after all tries."""


class RestartingClient:
    """Sends requests to one server. For many threads at once; they share one restart.

    ``skip_on_timeout`` is the old way: a request given up is answered with a text that begins with SKIPPED, as if it were one.
    """

    def __init__(
        self,
        server: str,
        settings: RestartSettings,
        *,
        skip_on_timeout: bool = False,
        sleep: Callable[[float], None] = time.sleep,
    ):
        self._server, self._settings, self._skip, self._sleep = server, settings, skip_on_timeout, sleep
        self.metrics = RestartMetrics()
        self._gate = threading.Condition()
        self._restarting = False
        self._generation = 0  # of the server, as far as this client has had it restarted
        self._timeouts_in_a_row = 0

    def post(self, path: str, body: Any, *, idempotent: bool = True) -> Any:
        """The JSON answer (or the skipped text). Raises RequestLostError; requests.HTTPError for an answer that is an error.

        A request that is not ``idempotent`` is sent once: nobody knows whether a lost one was carried out.
        """
        request_id, attempts, asked_restart = uuid.uuid4().hex[:8], self._settings.attempts, False
        for attempt in range(1, attempts + 1):
            generation, start = self._wait_for_gate(), time.monotonic()
            try:
                answer = self._send(path, body, request_id)
            except requests.Timeout:
                waited_s = time.monotonic() - start
                logger.warning("[%s] API timeout on attempt %d/%d after %.1fs", request_id, attempt, attempts, waited_s)
                if not asked_restart and self._due(attempt):
                    asked_restart = True
                    if self._restart_once(generation) and idempotent:
                        continue
            except requests.ConnectionError as error:
                logger.warning("[%s] connection lost on attempt %d/%d: %s", request_id, attempt, attempts, error)
                if idempotent and self._restarted_since(generation):
                    self.metrics.count("replayed")
                    continue
            else:
                self._timeouts_in_a_row = 0
                return answer
            if not idempotent:
                raise RequestLostError(f"{path}: no answer, and it may have been carried out; not sent again")
            if attempt < attempts:
                self._sleep(self._settings.base_s * 2 ** (attempt - 1))
        return self._give_up(path)

    def _send(self, path: str, body: Any, request_id: str) -> Any:
        with requests.Session() as session:
            session.trust_env = False
            url, headers = f"{self._server.rstrip('/')}{path}", {REQUEST_ID: request_id}
            response = session.post(url, json=body, headers=headers, timeout=self._settings.request_timeout_s)
        response.raise_for_status()
        return response.json()

    def _due(self, attempt: int) -> bool:
        """Count a time-out; whether it is time for a restart, and a try is left to profit from it."""
        self._timeouts_in_a_row += 1
        enough = self._timeouts_in_a_row >= self._settings.timeouts_before_restart
        return self._settings.enabled and enough and attempt < self._settings.attempts

    def _wait_for_gate(self) -> int:
        """Wait while a restart is under way; the server's generation."""
        with self._gate:
            if self._restarting:
                self.metrics.count("queued")
                self._gate.wait_for(lambda: not self._restarting, 2 * self._settings.wait_s)
            return self._generation

    def _restarted_since(self, generation: int) -> bool:
        """Whether the server a request was sent to is being, or has been, replaced."""
        with self._gate:
            return self._restarting or self._generation != generation

    def _restart_once(self, generation: int) -> bool:
        """Have the server of ``generation`` restarted, once however many ask; whether another one serves now."""
        with self._gate:
            self._gate.wait_for(lambda: not self._restarting, 2 * self._settings.wait_s)
            if self._generation != generation:
                return True
            self._restarting = True
        succeeded = False
        try:
            succeeded = self._restart()
        finally:
            self.metrics.restarted(time.monotonic(), succeeded=succeeded)
            with self._gate:
                self._restarting = False
                self._generation += succeeded
                self._timeouts_in_a_row = 0
                self._gate.notify_all()
        return succeeded

    def _restart(self) -> bool:
        """Ask for it, then wait until another instance is healthy."""
        start = time.monotonic()
        logger.warning("Attempting to restart server at %s", self._server)
        try:
            with requests.Session() as session:
                session.trust_env = False
                answer = session.post(route_url(self._server, RESTART), timeout=self._settings.ask_timeout_s)
            answer.raise_for_status()
            old = answer.json().get(INSTANCE)
        except requests.ConnectionError as error:
            logger.warning("Nobody takes the restart request (%s); waiting for whoever comes", error)
            old = None
        except (requests.RequestException, ValueError) as error:
            logger.warning("Server restart failed: %s", error)
            return False
        self._sleep(min(self._settings.settle_s, self._settings.wait_s))
        while (left_s := start + self._settings.wait_s - time.monotonic()) > 0:
            new = self._instance(min(self._settings.ask_timeout_s, left_s))
            if new is not None and new != old:
                logger.info("Server restarted successfully after %.1fs", time.monotonic() - start)
                return True
            self._sleep(min(self._settings.poll_s, left_s))
        logger.warning("Server restart failed: not back within %.1fs", self._settings.wait_s)
        return False

    def _instance(self, timeout_s: float) -> str | None:
        """Who answers /health now."""
        try:
            with requests.Session() as session:
                session.trust_env = False
                answer = session.get(route_url(self._server, HEALTH), timeout=timeout_s)
            return str(answer.json()[INSTANCE]) if answer.ok else None
        except (requests.RequestException, ValueError, KeyError):
            return None

    def _give_up(self, path: str) -> str:
        text = f"{path}: no answer after {self._settings.attempts} attempts"
        if not self._skip:
            raise RequestLostError(text)
        self.metrics.count("skipped")
        return f"{SKIPPED} {text}"
