"""What a place leaves when both its lab and its keeper were killed: marked processes, and a folder nobody holds."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from injection.virtual import loop

#: Environment variable by which a process is known to belong to a place.
MARK = "SITE"
PREFIX = "site-"
#: Where a place's folder may lie; the first that can be written to is taken.
PARENTS = ("/tmp", "/var/tmp", tempfile.gettempdir())  # noqa: S108 - mkdtemp is what makes it safe there
HOLD = "lock"
#: How long strays are looked for again and again: one that is being killed may just have forked.
ENDING_S = 10.0
POLL_S = 0.05


def hold(scratch: Path) -> int:
    """Hold a place's folder for as long as this process lives (or closes the descriptor): so all can see that it is in use."""
    fresh = scratch / f".{HOLD}"
    descriptor = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fresh.rename(scratch / HOLD)  # only now: it is never seen unlocked while in use
    return descriptor


def end_abandoned() -> list[Path]:
    """End what is left of this user's places whose lab is gone; returns their folders, which are gone too."""
    ended = list(_abandoned())
    for scratch in ended:
        loop.thaw(scratch)  # who waits for a frozen disk cannot be ended
        end_strays(scratch)
        shutil.rmtree(scratch, ignore_errors=True)
    return ended


def end_strays(scratch: Path) -> None:
    """Kill every process that carries the place's mark in its environment, until none is left (or `ENDING_S` are over)."""
    deadline = time.monotonic() + ENDING_S
    while (found := marked(scratch)) and time.monotonic() < deadline:
        for process in found:
            with suppress(psutil.Error):
                process.kill()
        time.sleep(POLL_S)  # a dead one has no environment any more, whether it was reaped or not


def marked(scratch: Path) -> list[psutil.Process]:
    """Living processes with the place's mark, as far as this user may see."""
    mark = f"{MARK}={scratch}".encode()
    found = []
    for process in psutil.process_iter():
        with suppress(OSError, psutil.Error):  # gone, or another user's
            if mark in Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0"):
                found.append(process)
    return found


def _abandoned() -> Iterator[Path]:
    for parent in dict.fromkeys(PARENTS):
        for folder in sorted(Path(parent).glob(f"{PREFIX}*")):
            if _is_ours(folder) and _is_free(folder / HOLD):
                yield folder


def _is_ours(folder: Path) -> bool:
    """A folder of this user that was made as a place's folder is; others may bear such a name by chance."""
    try:
        found, held = folder.lstat(), (folder / HOLD).lstat()
    except OSError:
        return False
    mine = found.st_uid == held.st_uid == os.geteuid()
    return mine and stat.S_ISDIR(found.st_mode) and stat.S_IMODE(found.st_mode) == 0o700 and stat.S_ISREG(held.st_mode)


def _is_free(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held, or gone meanwhile
        return False
    return True
