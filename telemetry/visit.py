"""Make something in the network of another process, and come back with it: a socket belongs for good to where it was made."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

_NEW_NETWORK = 0x40000000  # CLONE_NEWNET
Made = TypeVar("Made")


def in_network(pid: int, make: Callable[[], Made]) -> Made:
    """What ``make`` returns in the network namespace in which process ``pid`` lives; a thread goes there, and ends there.

    Raises OSError where that process is gone or its network may not be entered, and what ``make`` raises of OSError.
    """
    there, here = Path(f"/proc/{pid}/ns/net"), Path("/proc/thread-self/ns/net")
    if there.stat().st_ino == here.stat().st_ino:
        return make()
    made: list[Made] = []
    refused: list[OSError] = []

    def go() -> None:
        try:
            handle = os.open(there, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if ctypes.CDLL(None, use_errno=True).setns(handle, _NEW_NETWORK):
                    raise OSError(ctypes.get_errno(), f"the network of process {pid} cannot be entered")
                made.append(make())
            finally:
                os.close(handle)
        except OSError as error:
            refused.append(error)

    visitor = threading.Thread(target=go)
    visitor.start()
    visitor.join()
    if refused:
        raise refused[0]
    return made[0]
