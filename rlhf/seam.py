"""The seam: a process announces where it is (`enter`, `exit`, `error` of a stage) and goes on when it is answered.

Newline-JSON over the unix socket named by STAGE_SOCKET. Without that variable an announcement is one comparison. No answer
within STAGE_DEADLINE_S seconds, or any error on the socket, and the process never announces again: no listener can hang it.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_path: str | None = os.environ.get("STAGE_SOCKET") or None
_component = "controller"
_stream: socket.socket | None = None
_sequence = 0
_lock = threading.Lock()


def announce_as(component: str) -> None:
    """Name this process and read STAGE_SOCKET anew (a forked process has its parent's, and must not share its connection)."""
    global _path, _component, _stream
    _path, _component, _stream = os.environ.get("STAGE_SOCKET") or None, component, None


def reach(stage: str, step: int, phase: str, **attrs: Any) -> None:
    """Announce ``phase`` of ``stage`` in ``step``; returns when the listener has answered, or never will."""
    if _path is None:
        return
    with _lock:
        _announce({"component": _component, "step": step, "stage": stage, "phase": phase, "attrs": attrs})


def _announce(event: dict[str, Any]) -> None:
    global _path, _stream, _sequence
    if _path is None:
        return
    deadline = time.monotonic() + float(os.environ.get("STAGE_DEADLINE_S", "10"))
    _sequence += 1
    try:
        if _stream is None:
            _stream = socket.socket(socket.AF_UNIX)
            _stream.settimeout(deadline - time.monotonic())
            _stream.connect(_path)
        clocks = {"wall_s": time.time(), "mono_s": time.monotonic()}
        _stream.sendall(json.dumps({"seq": _sequence, **event, **clocks}).encode() + b"\n")
        _await_answer(_stream, _sequence, deadline)
    except (OSError, ValueError):
        _path = None
        if _stream is not None:
            _stream.close()


def _await_answer(stream: socket.socket, sequence: int, deadline: float) -> None:
    """Read until the answer to ``sequence``. Raises OSError at the deadline or at end of file."""
    line = b""
    while not line.endswith(b"\n"):
        stream.settimeout(max(deadline - time.monotonic(), 0.001))
        part = stream.recv(4096)
        if not part:
            raise ConnectionError("closed")
        line += part
        if time.monotonic() > deadline:
            raise TimeoutError("too late")
    if json.loads(line.splitlines()[-1])["seq"] != sequence:
        raise ValueError("answer to another announcement")


@contextmanager
def stage(name: str, step: int) -> Iterator[None]:
    """Announce ``enter``, then ``exit``, or ``error`` with the exception's text."""
    reach(name, step, "enter")
    try:
        yield
    except BaseException as error:
        reach(name, step, "error", error=str(error))
        raise
    reach(name, step, "exit")
