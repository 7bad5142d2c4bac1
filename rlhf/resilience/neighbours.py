"""Sending to peers that may be gone: try again with jitter, then mark the peer offline, say so once, and skip it."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Any

from rlhf.resilience.retry import GRPC_SEND, RetryPolicy

logger = logging.getLogger(__name__)

#: Hands a message to a peer. Raises ConnectionError when it did not get there.
Transport = Callable[[str, dict[str, Any]], Any]


class Neighbours:
    """The peers of one process and what is known of them. For many threads at once.

    Without ``retry`` a message is tried once and its loss is only logged: the peer stays "alive" and the sender never knows.
    """

    def __init__(
        self,
        names: list[str],
        transport: Transport,
        retry: RetryPolicy | None = GRPC_SEND,
        *,
        sleep: Callable[[float], None] = time.sleep,
        dice: random.Random | None = None,
    ):
        self._transport, self._retry, self._sleep, self._dice = transport, retry, sleep, dice
        self._alive = dict.fromkeys(names, True)
        self._lock = threading.Lock()

    def send(self, name: str, message: dict[str, Any]) -> bool:
        """Whether the message got there (as far as is known). An offline peer is skipped."""
        if not self.is_alive(name):
            return False
        if self._retry is None:
            return self._send_and_forget(name, message)
        try:
            deliver = lambda: self._transport(name, message)  # noqa: E731
            self._retry.call(deliver, (ConnectionError,), sleep=self._sleep, dice=self._dice, before_wait=self._tell)
        except ConnectionError as error:
            self.mark_offline(name, str(error))
            return False
        return True

    def mark_offline(self, name: str, reason: str) -> None:
        """Skip it from now on; only the first to notice says so."""
        with self._lock:
            was, self._alive[name] = self._alive[name], False
        if was:
            logger.warning("%s is offline: %s", name, reason)

    def mark_online(self, name: str) -> None:
        """It has been heard of again."""
        with self._lock:
            was, self._alive[name] = self._alive[name], True
        if not was:
            logger.info("%s is back", name)

    def is_alive(self, name: str) -> bool:
        """Raises KeyError for a stranger."""
        with self._lock:
            return self._alive[name]

    def alive(self) -> list[str]:
        """Names of those that are sent to."""
        with self._lock:
            return [name for name, alive in self._alive.items() if alive]

    def _send_and_forget(self, name: str, message: dict[str, Any]) -> bool:
        try:
            self._transport(name, message)
        except ConnectionError as error:
            logger.info("a message to %s is lost: %s", name, error)
        return True

    @staticmethod
    def _tell(failures: int, error: BaseException, wait_s: float) -> None:
        logger.debug("not sent (%d): %s; again in %.1f s", failures, error, wait_s)
