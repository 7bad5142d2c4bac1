"""The caller's side of the job's remote procedure calls: what is retried, what is final, and how it is told."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import requests
from torch import Tensor

from rlhf import wire
from rlhf.config import JobConfig
from rlhf.links import dial_address, open_session
from rlhf.request_id import REQUEST_ID, new_request_id
from rlhf.resilience.readiness import STATUS
from rlhf.resilience.retry import PRESETS, RetryPolicy
from rlhf.stats import StatsTracker

logger = logging.getLogger(__name__)

CREATE_ENGINE, CALL, EVENT, HEALTH = "/create_engine", "/call", "/event", "/health"

#: For a worker's process to come up: one try and sixty more, ten seconds apart.
CREATION = RetryPolicy(attempts=61, base_s=10.0, factor=1.0)

#: How often an acknowledged event is told before its receiver is taken for deaf.
EVENT_TRIES = 3

Reply = tuple[dict[str, Any], dict[str, Tensor]]


class RpcError(Exception):
    """A call that failed for good. ``status`` is the HTTP status, 0 if there was no answer."""

    def __init__(self, component: str, method: str, text: str, status: int = 0):
        super().__init__(f"{component}: {method}: {text}")
        self.component = component
        self.status = status
        self.text = text

    @property
    def summary(self) -> str:
        """The first line, without the remote traceback."""
        return f"{self.component}: {self.text.splitlines()[0] if self.text else 'no text'}"


class OfflineError(RpcError):
    """The callee is offline: it is not called, or not waited for any longer."""


class _AgainError(Exception):
    """It may be sent again: the callee has not seen a whole request, or hears of an event twice, which is as good as once."""

    status = 0


class _UnreadError(_AgainError):
    """The callee says that the request did not come in time."""

    status = int(requests.codes.request_timeout)


class RpcClient:
    """Calls one component over one of its links, one call at a time."""

    def __init__(self, component: str, config: JobConfig, stats: StatsTracker, purpose: str = "rpc"):
        self.component = component
        self._link = ("controller", component, purpose)
        self._config = config
        self._stats = stats
        self._session = open_session(*self._link)
        self._policy = PRESETS[config.posture.retry]
        self._turn, self._events = threading.Lock(), 0
        #: Why the component is not to be called now; empty when it may be.
        self.absence: Callable[[], str] = lambda: ""
        #: Told when the component cannot be reached, with what was seen.
        self.unreachable: Callable[[str], None] = lambda _: None

    def create_engine(self) -> None:
        """Have the engine made in the component's process, which may take its time to listen. Raises RpcError."""
        self._call(CREATE_ENGINE, "create_engine", {}, {}, self._config.timeout_s("create_engine"), CREATION)

    def call(self, method: str, timeout_s: float, tensors: dict[str, Tensor] | None = None, **arguments: Any) -> Reply:
        """Run an engine's method there; returns its figures and tensors. Raises RpcError."""
        return self._call(CALL, method, {"method": method, "arguments": arguments}, tensors or {}, timeout_s)

    def notify(self, event: str, global_step: int) -> None:
        """Tell of an event. Raises RpcError.

        Acknowledged events are told again when there was no answer in time, which does no harm: to ask for a device twice is to
        ask for it. It is an error when the answer is not of this event and step.
        """
        acked, told = self._config.posture.acked_events, {"event": event, "global_step": global_step}
        self._events += 1
        meta = {**told, "number": self._events, "sent_wall_s": time.time()}
        for left in reversed(range(EVENT_TRIES if acked else 1)):
            try:
                heard, _ = self._call(EVENT, event, meta, {}, self._config.timeout_s("event"))
                break
            except RpcError as error:
                if not (left and isinstance(error.__cause__, requests.Timeout)):
                    raise
                logger.warning("event %s of step %d is told again: %s", event, global_step, error)
        if acked and heard.get("acknowledged") != told:
            raise RpcError(self.component, event, f"event {event} of step {global_step} is not acknowledged: {heard}")

    def healthy(self) -> bool:
        """Whether the component answers now. A busy one does not: it serves one request at a time."""
        try:
            url = f"http://{self.component}{HEALTH}"
            return self._session.get(url, timeout=self._config.timeout_s("health")).ok
        except requests.RequestException:
            return False

    def status(self) -> dict[str, Any]:
        """What the component says of itself, busy or not; empty if it does not answer."""
        try:
            url = f"http://{self.component}{STATUS}"
            answer = self._session.get(url, timeout=self._config.timeout_s("health"))
            return dict(answer.json()) if answer.ok else {}
        except (requests.RequestException, ValueError):
            return {}

    def cut(self) -> None:
        """End a call that another thread waits for: its connection is lost. Without a call nothing happens."""
        self._session.cut()

    def close(self) -> None:
        self._session.close()

    def _call(
        self,
        path: str,
        name: str,
        meta: dict[str, Any],
        tensors: dict[str, Tensor],
        timeout_s: float,
        policy: RetryPolicy | None = None,
    ) -> Reply:
        """One call with its retries, timed and counted."""
        nominal = policy or self._policy
        start, body, request_id = time.monotonic(), wire.encode(meta, tensors), new_request_id()
        retries, outcome = 0, 0

        def told(failures: int, error: BaseException, _: float) -> None:
            nonlocal retries
            retries = failures
            self._tell_retry(nominal, failures, error, request_id)

        try:
            with self._turn:
                reply = nominal.scaled(self._config.time_scale).call(
                    lambda: self._send(path, name, body, request_id, timeout_s), (_AgainError,), before_wait=told
                )
            outcome = requests.codes.ok
        except _AgainError as error:
            outcome = error.status
            raise self._given_up(path, name, error, request_id) from error
        except RpcError as error:
            outcome = error.status
            raise
        else:
            return reply
        finally:
            failure = {} if outcome == requests.codes.ok else {"status_code": outcome}
            figures = {"latency_s": time.monotonic() - start, "retries": retries, "failed_count": len(failure)}
            self._stats.call(self.component, name, {**figures, **failure})

    @staticmethod
    def _tell_retry(nominal: RetryPolicy, failures: int, error: BaseException, request_id: str) -> None:
        """The wait is told in nominal seconds, as the trainer has it."""
        wait_s, more = nominal.wait_s(failures - 1), nominal.attempts - 1
        wait = "1 second" if wait_s == 1 else f"{wait_s:g} seconds"
        logger.warning("%s Retrying in %s... (%d/%d) request_id=%s", error, wait, failures, more, request_id)

    def _given_up(self, path: str, name: str, error: Exception, request_id: str) -> RpcError:
        text = f"Max retries exceeded for {self._url(path)}"
        if error.__cause__ is not None:  # no connection; without one it is an answer, 408
            self._lost(f"{text}: {error}")
        if reason := self.absence():
            return self._offline(name, request_id, reason)
        logger.error("%s: %s request_id=%s", text, error, request_id)
        return RpcError(self.component, name, f"{text}: {error}")

    def _send(self, path: str, name: str, body: bytes, request_id: str, timeout_s: float) -> Reply:
        """One try. Raises _AgainError when it may be repeated, RpcError when not."""
        if away := self.absence():
            raise self._offline(name, request_id, away)
        try:
            headers = {REQUEST_ID: request_id, "Content-Type": "application/octet-stream"}
            url = f"http://{self.component}{path}"
            response = self._session.post(url, data=body, headers=headers, timeout=timeout_s)
        except requests.ConnectTimeout as error:
            raise _AgainError(f"Connect timeout for {self._url(path)}.") from error
        except requests.ConnectionError as error:
            reason = getattr(error.args[0], "reason", None) if error.args else None
            if reason is not None:  # only a connection that was never made carries a reason
                raise _AgainError(f"Connection error for {self._url(path)}: {reason}.") from error
            if path == EVENT and self._config.posture.acked_events and not self.absence():
                raise _AgainError(f"Connection lost for {self._url(path)}: {error}.") from error
            self._lost(f"Connection lost: {error}")
            raise self._final(name, request_id, f"Connection lost: {error}") from error
        except requests.Timeout as error:
            raise self._final(name, request_id, f"Request timeout after {timeout_s:.1f}s for {self._url(path)}") from error
        except requests.RequestException as error:
            raise self._final(name, request_id, f"Request failed: {error}") from error
        return self._read(name, request_id, response)

    def _read(self, name: str, request_id: str, response: requests.Response) -> Reply:
        if response.status_code == requests.codes.request_timeout:
            raise _UnreadError(f"HTTP error: 408 - {response.text}.")
        if response.status_code != requests.codes.ok:
            logger.error("Non-retryable HTTP error: %d - %s request_id=%s", response.status_code, response.text, request_id)
            raise RpcError(self.component, name, f"HTTP {response.status_code}: {response.text}", response.status_code)
        try:
            return wire.decode(response.content)
        except ValueError as error:
            raise self._final(name, request_id, f"unreadable answer: {error}") from error

    def _lost(self, text: str) -> None:
        """The connection was not cut on this side: that would have had its reason."""
        if not self.absence():
            self.unreachable(text)

    def _offline(self, name: str, request_id: str, reason: str) -> OfflineError:
        """Why it is offline has been said."""
        logger.info("%s %s is given up: %s request_id=%s", self.component, name, reason, request_id)
        return OfflineError(self.component, name, reason)

    def _final(self, name: str, request_id: str, text: str) -> RpcError:
        if reason := self.absence():
            return self._offline(name, request_id, reason)
        logger.error("%s %s: %s request_id=%s", self.component, name, text, request_id)
        return RpcError(self.component, name, text)

    def _url(self, path: str) -> str:
        return f"http://{dial_address(*self._link)}{path}"
