"""The command as an ordinary user calls it, on whole runs; and a look at what it leaves."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from injection.strays import PARENTS, PREFIX
from storage.layout import RunPaths
from tests.conftest import ORDINARY_UID

PATIENCE_S = 900.0
COMMAND = "from flows.command import main; main()"


@dataclass
class Told:
    """What a call of the command came to. ``error``: its one sentence on standard error, "" without one."""

    code: int
    outcome: dict[str, Any]
    error: str
    paths: RunPaths | None
    seconds: float


Faultline = Callable[..., Told]


@pytest.fixture
def faultline(scratch: Path, ordinary_user: Callable) -> Iterator[Faultline]:
    """Call the command; it is called again while another run has the machine. Afterwards nothing of its runs may be left."""
    home = scratch / "home" / "lab"

    def call(*words: str, before: str = "", within: tuple[str, ...] = ()) -> Told:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            began = time.monotonic()
            process = ordinary_user([*within, sys.executable, "-c", before + COMMAND, *words])
            out, errors = process.communicate(timeout=PATIENCE_S)
            sentence = next((line for line in errors.splitlines() if line.startswith("faultline: ")), "")
            if "already runs an experiment" not in sentence or time.monotonic() > deadline:
                break
        runs = sorted(home.glob("runs/r*"), key=lambda path: path.stat().st_mtime)
        assert "Traceback" not in errors
        outcome = json.loads(out) if out else {}
        return Told(process.returncode, outcome, sentence, RunPaths(runs[-1]) if runs else None, time.monotonic() - began)

    before = folders()
    yield call
    assert processes_with(f"HOME={scratch / 'home'}") == []
    assert folders() - before == set()
    assert [path.name for path in home.glob("journal/*")] == []


def folders() -> set[Path]:
    """Folders of places that belong to the ordinary user."""
    owner = ORDINARY_UID if os.geteuid() == 0 else os.geteuid()
    found = set()
    for path in (path for parent in PARENTS for path in Path(parent).glob(f"{PREFIX}*")):
        with suppress(FileNotFoundError):  # another user's, gone meanwhile
            if path.stat().st_uid == owner:
                found.add(path)
    return found


def processes_with(entry: str) -> list[str]:
    """Processes of the machine with such an entry in their environment."""
    found = []
    for process in psutil.process_iter():
        with suppress(OSError, psutil.Error):
            if entry.encode() in Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0"):
                found.append(" ".join(process.cmdline()))
    return found
