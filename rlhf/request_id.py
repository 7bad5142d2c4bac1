"""Whose request this is: an id in a header, handed on by whoever asks others while serving it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

REQUEST_ID = "X-Request-Id"

_SERVED: ContextVar[str] = ContextVar("request_id", default="")


def new_request_id() -> str:
    """Sixteen hexadecimal digits."""
    return uuid.uuid4().hex[:16]


def request_id() -> str:
    """The id of the request that this thread serves; a new one where it serves none."""
    return _SERVED.get() or new_request_id()


@contextmanager
def serving(request: str) -> Iterator[None]:
    """What this thread asks of others meanwhile is part of ``request``."""
    token = _SERVED.set(request)
    try:
        yield
    finally:
        _SERVED.reset(token)
