"""One experiment per machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tasks.machine_lock import MachineBusyError, holder, lock_path, machine_lock

HOLD = """
import time
from tasks.machine_lock import machine_lock
with machine_lock("run 7"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def own_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A temporary directory of this test's own, so that no real experiment is in the way."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))


def hold() -> subprocess.Popen[bytes]:
    child = subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE)
    assert child.stdout
    assert child.stdout.readline() == b"held\n"
    return child


def test_second_experiment_is_refused_by_name() -> None:
    """While one holds the machine another is refused with the holder's pid and run; killed, it leaves the machine free."""
    child = hold()
    try:
        assert holder() == {"pid": child.pid, "run": "run 7"}
        with pytest.raises(MachineBusyError, match=rf"process {child.pid} \(run 7\)"), machine_lock():
            pass
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert holder() == {}
    with machine_lock("mine"):
        assert holder()["pid"] == os.getpid()
    assert holder() == {}


def test_waiting_takes_over() -> None:
    """Who waits gets the machine when its holder ends."""
    child = hold()
    child.send_signal(signal.SIGTERM)
    with machine_lock("next", wait_s=60):
        assert holder() == {"pid": os.getpid(), "run": "next"}
    child.wait()


def test_lock_is_for_every_user() -> None:
    """The file can be locked by everyone, whatever the umask of the one who made it."""
    before = os.umask(0o077)
    try:
        with machine_lock():
            pass
    finally:
        os.umask(before)
    assert lock_path().stat().st_mode & 0o777 == 0o666


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    """A symbolic link in place of the lock, in a folder where anyone may make one, is refused and its target left alone."""
    target = tmp_path / "precious"
    target.write_text("x")
    lock_path().symlink_to(target)
    with pytest.raises(OSError, match="symbolic link"), machine_lock():
        pass
    assert target.read_text() == "x"
