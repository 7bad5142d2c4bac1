"""Engines forked from a template: how they start, end, and what their end is called."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rlhf.config import JobConfig
from rlhf.host import Host
from rlhf.registry import registered, start_ticks


@pytest.fixture
def host(job_folder: Callable) -> Iterator[Host]:
    folder = job_folder(JobConfig())
    made = Host(str(folder.path), preload="none", environment={})
    yield made
    made.close()


def _wait_registered(host: Host, component: str) -> int:
    """Its pid, as it says itself: the host may not have been told yet, and a signal to pid 0 is one to this very test."""
    while (record := registered(component)) is None:
        assert host.engines()[component]["exit_code"] is None
        time.sleep(0.02)
    return record.pid


def _wait_ended(host: Host, component: str) -> int:
    deadline = time.monotonic() + 60
    while (code := host.engines()[component]["exit_code"]) is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return int(code)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGABRT])
def test_the_real_signal_is_reported(host: Host, number: signal.Signals) -> None:
    """An engine that a signal ends is reported with that signal, and its registration was of that very process."""
    host.start("reward")
    _wait_registered(host, "reward")
    record = registered("reward")
    assert record is not None
    assert record.start_ticks == start_ticks(record.pid)
    os.kill(record.pid, number)
    assert _wait_ended(host, "reward") == -number
    assert host.engines()["reward"]["pid"] == record.pid


def test_an_engine_that_cannot_start_says_why(host: Host, job_folder: Callable) -> None:
    """A component that does not exist ends with exit code 1 and its traceback where errors go."""
    host.start("train7")
    assert _wait_ended(host, "train7") == 1
    assert "train7" in (Path(os.environ["JOB_DIR"]) / "logs" / "train7.log").read_text()


def test_a_host_without_ranks_has_no_torch(host: Host) -> None:
    """Store and reward process, and so the template they are forked from, have no torch: its memory and time are the ranks'."""
    for component in ("metaserver", "reward"):
        host.start(component)
        mapped = Path(f"/proc/{_wait_registered(host, component)}/maps").read_text()
        assert "python" in mapped and "libtorch" not in mapped


def test_a_paused_engine_can_be_stopped(host: Host) -> None:
    """Stopping ends an engine that does not react: asked first, then killed."""
    host.start("metaserver")
    pid = _wait_registered(host, "metaserver")
    os.kill(pid, signal.SIGSTOP)
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        time.sleep(0.01)
    assert host.stop(["metaserver"]) == {"metaserver": -signal.SIGKILL}
    assert host.stop(["metaserver"]) == {"metaserver": -signal.SIGKILL}, "stopping twice is harmless"


def test_engines_inherit_nothing_but_standard_streams(host: Host) -> None:
    """A forked engine has no descriptor of the template's besides its own socket and log."""
    host.start("reward")
    folder = Path(f"/proc/{_wait_registered(host, 'reward')}/fd")
    kinds = sorted(str(entry.readlink()).split(":")[0] for entry in folder.iterdir())
    assert "pipe" not in kinds, kinds


OWNER = """
import sys, time
from rlhf.host import Host
host = Host(sys.argv[1], preload="none", environment={})
host.start("reward")
time.sleep(1000)
"""


def test_everything_dies_with_the_owner(job_folder: Callable) -> None:
    """kill -9 of the process that owns a host leaves neither template nor engine."""
    folder = job_folder(JobConfig())
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(folder.path)])
    while registered("reward") is None:
        assert owner.poll() is None
        time.sleep(0.02)
    assert len(folder.living()) >= 2
    owner.kill()
    owner.wait()
    deadline = time.monotonic() + 30
    while folder.living():
        assert time.monotonic() < deadline, folder.living()
        time.sleep(0.02)
