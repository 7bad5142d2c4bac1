"""Ending processes by identity."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

from flows.processes import descendants, end
from injection.procfs import identity

DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
PARENT = "import subprocess, sys; p = subprocess.Popen(['sleep', '600']); print('up', flush=True); p.wait()"


def start(code: str) -> subprocess.Popen[bytes]:
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert child.stdout
    assert child.stdout.readline() == b"up\n"
    return child


def test_ends_what_listens_and_kills_what_does_not() -> None:
    """A process that ignores the request is killed after the grace, and named."""
    child = start(DEAF)
    who = identity(child.pid)
    assert end([who], 0.3) == [who]
    assert child.wait(10) == -9


def test_another_process_of_that_pid_is_safe() -> None:
    """A pid alone is not enough: with another start time nothing is signalled."""
    child = start(PARENT)
    stranger = replace(identity(child.pid), start_ticks=1)
    assert end([stranger], 0.1) == []
    assert descendants(stranger) == []
    assert child.poll() is None
    below = descendants(identity(child.pid))
    assert len(below) == 1
    end([*below, identity(child.pid)], 5)
    child.wait(10)
    assert not below[0].alive()
