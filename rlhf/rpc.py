"""The caller's side of the job's remote procedure calls: what is retried, what is final, and how it is told."""

from __future__ import annotations

import logging
import time
import uuid
from typing import Any

import requests
from torch import Tensor

from rlhf import wire
from rlhf.config import JobConfig
from rlhf.links import dial_address, open_session
from rlhf.stats import StatsTracker

logger = logging.getLogger(__name__)

CREATE_ENGINE, CALL, EVENT, HEALTH = "/create_engine", "/call", "/event", "/health"
REQUEST_ID = "X-Request-Id"
MAX_RETRIES = 3
RETRY_SLEEP_NOMINAL_S = 1.0

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


class _NotSentError(Exception):
    """The callee has not seen a whole request, so it may be sent again."""


class RpcClient:
    """Calls one component over one of its links. Not for two threads at once."""

    def __init__(self, component: str, config: JobConfig, stats: StatsTracker, purpose: str = "rpc"):
        self.component = component
        self._link = ("controller", component, purpose)
        self._config = config
        self._stats = stats
        self._session = open_session(*self._link)

    def create_engine(self) -> None:
        """Have the engine made in the component's process."""
        self._call(CREATE_ENGINE, "create_engine", {}, {}, self._config.timeout_s("create_engine"))

    def call(self, method: str, timeout_s: float, tensors: dict[str, Tensor] | None = None, **arguments: Any) -> Reply:
        """Run an engine's method there; returns its figures and tensors. Raises RpcError."""
        return self._call(CALL, method, {"method": method, "arguments": arguments}, tensors or {}, timeout_s)

    def notify(self, event: str, global_step: int) -> None:
        """Tell of an event. Raises RpcError; an answer says that it was heard, not what came of it."""
        self._call(EVENT, event, {"event": event, "global_step": global_step}, {}, self._config.timeout_s("event"))

    def healthy(self) -> bool:
        """Whether the component answers now. A busy one does not: it serves one request at a time."""
        try:
            url = f"http://{self.component}{HEALTH}"
            return self._session.get(url, timeout=self._config.timeout_s("health")).ok
        except requests.RequestException:
            return False

    def close(self) -> None:
        self._session.close()

    def _call(self, path: str, name: str, meta: dict[str, Any], tensors: dict[str, Tensor], timeout_s: float) -> Reply:
        """One call with its retries, timed and counted."""
        start, body, request_id = time.monotonic(), wire.encode(meta, tensors), uuid.uuid4().hex[:16]
        retries, failed = 0, 1
        try:
            while True:
                try:
                    reply = self._send(path, name, body, request_id, timeout_s)
                except _NotSentError as error:
                    retries += 1
                    self._wait_before(retries, path, request_id, error, name)
                else:
                    failed = 0
                    return reply
        finally:
            figures = {"latency_s": time.monotonic() - start, "retries": retries, "failed_count": failed}
            prefix = f"rpc/{self.component}/{name}"
            self._stats.scalar("", self._stats.step, **{f"{prefix}/{key}": value for key, value in figures.items()})

    def _wait_before(self, retry: int, path: str, request_id: str, error: Exception, name: str) -> None:
        """Sleep before the next try, or raise RpcError when there have been enough."""
        if retry > MAX_RETRIES:
            text = f"Max retries exceeded for {self._url(path)}"
            logger.error("%s: %s request_id=%s", text, error, request_id)
            raise RpcError(self.component, name, f"{text}: {error}") from error
        logger.warning("%s Retrying in 1 second... (%d/%d) request_id=%s", error, retry, MAX_RETRIES, request_id)
        time.sleep(RETRY_SLEEP_NOMINAL_S / self._config.time_scale)

    def _send(self, path: str, name: str, body: bytes, request_id: str, timeout_s: float) -> Reply:
        """One try. Raises _NotSentError when it may be repeated, RpcError when not."""
        try:
            headers = {REQUEST_ID: request_id, "Content-Type": "application/octet-stream"}
            url = f"http://{self.component}{path}"
            response = self._session.post(url, data=body, headers=headers, timeout=timeout_s)
        except requests.ConnectTimeout as error:
            raise _NotSentError(f"Connect timeout for {self._url(path)}.") from error
        except requests.ConnectionError as error:
            reason = getattr(error.args[0], "reason", None) if error.args else None
            if reason is not None:  # only a connection that was never made carries a reason
                raise _NotSentError(f"Connection error for {self._url(path)}: {reason}.") from error
            raise self._final(name, request_id, f"Connection lost: {error}") from error
        except requests.Timeout as error:
            raise self._final(name, request_id, f"Request timeout after {timeout_s:.1f}s for {self._url(path)}") from error
        except requests.RequestException as error:
            raise self._final(name, request_id, f"Request failed: {error}") from error
        return self._read(name, request_id, response)

    def _read(self, name: str, request_id: str, response: requests.Response) -> Reply:
        if response.status_code == requests.codes.request_timeout:
            raise _NotSentError(f"HTTP error: 408 - {response.text}.")
        if response.status_code != requests.codes.ok:
            logger.error("Non-retryable HTTP error: %d - %s request_id=%s", response.status_code, response.text, request_id)
            raise RpcError(self.component, name, f"HTTP {response.status_code}: {response.text}", response.status_code)
        try:
            return wire.decode(response.content)
        except ValueError as error:
            raise self._final(name, request_id, f"unreadable answer: {error}") from error

    def _final(self, name: str, request_id: str, text: str) -> RpcError:
        logger.error("%s %s: %s request_id=%s", self.component, name, text, request_id)
        return RpcError(self.component, name, text)

    def _url(self, path: str) -> str:
        return f"http://{dial_address(*self._link)}{path}"
