"""One experiment per machine: two at once would be each other's fault.

A lock of the kernel's on a file in the system's temporary directory, so that it holds across users, checkouts and homes
and is free again however its holder ends.
"""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

POLL_S = 0.5


class MachineBusyError(RuntimeError):
    """Another experiment runs on this machine."""


def lock_path() -> Path:
    """The file whose lock is the machine's."""
    return Path(tempfile.gettempdir()) / "faultline.lock"


@contextmanager
def machine_lock(run: str = "", wait_s: float = 0.0) -> Iterator[None]:
    """Hold the machine for ``run`` (any words that tell a person what runs).

    Waits up to ``wait_s`` seconds for the present holder, then raises `MachineBusyError` naming its pid and run.
    """
    descriptor = _open(lock_path())
    try:
        _acquire(descriptor, wait_s)
        _write_holder(descriptor, {"pid": os.getpid(), "run": run})
        try:
            yield
        finally:
            _write_holder(descriptor, {})
    finally:
        os.close(descriptor)


def holder() -> dict[str, object]:
    """Who holds the machine now (``pid``, ``run``); empty when nobody does."""
    try:
        descriptor = _open(lock_path())
    except OSError:
        return {}
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read_holder(descriptor)
    else:
        return {}
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise MachineBusyError(_busy(_read_holder(descriptor))) from None
            time.sleep(POLL_S)
        else:
            return


def _busy(who: dict[str, object]) -> str:
    run = f" ({who['run']})" if who.get("run") else ""
    return f"this machine already runs an experiment: process {who.get('pid', 'unknown')}{run} holds {lock_path()}"


def _open(path: Path) -> int:
    """Open the lock file, made for everyone. Never with O_CREAT on a file of another user: kernels refuse that in /tmp."""
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(path, flags)
    except FileNotFoundError:
        pass
    try:
        descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:  # another process made it in between
        return os.open(path, flags)
    os.fchmod(descriptor, 0o666)  # whatever the umask says: the next user must be able to lock it
    return descriptor


def _read_holder(descriptor: int) -> dict[str, object]:
    try:
        found = json.loads(os.pread(descriptor, 4096, 0) or b"{}")
    except ValueError:  # read in the middle of a write, or not ours
        return {}
    return found if isinstance(found, dict) else {}


def _write_holder(descriptor: int, who: dict[str, object]) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(who).encode() if who else b"", 0)
