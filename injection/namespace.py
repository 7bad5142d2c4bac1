"""Doing something inside a virtual host's network: a namespace named like the host, entered by one thread alone."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from pyroute2 import netns

Result = TypeVar("Result")


def enter(host: str) -> None:
    """Move the calling thread into the network of a virtual host, for good. Empty = stay. Raises OSError."""
    if host:
        netns.setns(host)


def within(host: str, action: Callable[[], Result]) -> Result:
    """Run `action` in a virtual host's network, in a thread of its own that ends with it; its exceptions come through."""

    def inside() -> Result:
        enter(host)
        return action()

    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(inside).result()


def exists(host: str) -> bool:
    """Whether that virtual host's network still stands."""
    return not host or Path(netns.NETNS_RUN_DIR, host).exists()
