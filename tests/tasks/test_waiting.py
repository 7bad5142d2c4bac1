"""Waits end with who did not live to see it, and its last words."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tasks.waiting import LabError, Watched, wait_for


def test_the_one_that_ended_is_named(tmp_path: Path) -> None:
    """Of several watched processes the dead one is told, with its exit code or signal and the last line of its first log."""
    quiet = subprocess.Popen(["sleep", "600"])
    with (tmp_path / "b.log").open("w") as log:
        dead = subprocess.Popen([sys.executable, "-c", "raise SystemExit('no such thing')"], stderr=log)
    watched = [
        Watched("the quiet one", quiet, ()),
        Watched("the loud one", dead, (tmp_path / "empty.log", tmp_path / "b.log")),
    ]
    try:
        with pytest.raises(
            LabError, match=r"^the loud one ended with exit code 1 before it stood; its last words: no such thing$"
        ):
            wait_for("it stood", lambda: False, watched, 60.0)
        quiet.kill()
        quiet.wait()
        with pytest.raises(LabError, match=r"the quiet one was killed by signal 9 before it stood; its last words: \(none\)"):
            wait_for("it stood", lambda: False, watched, 60.0)
    finally:
        quiet.kill()
        quiet.wait()


def test_what_has_happened_counts_although_the_process_ended(tmp_path: Path) -> None:
    """A process may end right after it did what was waited for."""
    done = subprocess.Popen(["touch", str(tmp_path / "done")])
    done.wait()
    wait_for("it was done", (tmp_path / "done").exists, [Watched("it", done, ())], 60.0)


def test_time_is_bounded() -> None:
    """A wait that nothing ends says how long it waited and for what."""
    quiet = subprocess.Popen(["sleep", "600"])
    try:
        with pytest.raises(LabError, match=r"^0 s were over before it stood; last words of it: \(none\)$"):
            wait_for("it stood", lambda: False, [Watched("it", quiet, ())], 0.1)
    finally:
        quiet.kill()
        quiet.wait()
