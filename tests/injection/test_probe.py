"""The probe: a process apart that measures, and whose death is no proof of anything."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from injection.probe import Probe, ProbeError
from injection.procfs import identity

ME = {"pid": os.getpid(), "start_ticks": identity(os.getpid()).start_ticks}


def test_a_killed_probe_is_replaced() -> None:
    """The next question after kill -9 is answered as the one before, by another process."""
    probe = Probe()
    try:
        first, pid = probe.ask("process_state", ME), probe.pid
        os.kill(pid, signal.SIGKILL)
        assert probe.ask("process_state", ME)["alive"] == first["alive"] is True
        assert probe.pid != pid
    finally:
        probe.close()


def test_a_closed_probe_ends_what_it_measures() -> None:
    """Closing does not wait for a measurement under way; that one fails, and no probe is started for it."""
    probe = Probe()
    failed: list[BaseException] = []

    def long() -> None:
        try:
            probe.ask("process_state", {**ME, "window_s": 600.0})
        except ProbeError as error:
            failed.append(error)

    asking = threading.Thread(target=long)
    asking.start()
    asking.join(0.5)
    pid = probe.pid
    probe.close()
    asking.join(30)
    assert not asking.is_alive()
    assert "while measuring process_state" in str(failed[0])
    assert probe.pid == pid


def test_what_cannot_be_measured_is_an_error() -> None:
    """The probe's own refusal reaches the asker and leaves the probe at work."""
    probe = Probe()
    try:
        with pytest.raises(ProbeError, match="nonsense"):
            probe.ask("nonsense", {})
        assert probe.ask("process_state", ME)["alive"]
    finally:
        probe.close()


def test_a_probe_ends_with_whoever_asked_it_also_while_it_measures() -> None:
    """Killed in the middle of a long measurement, an injector leaves no probe behind that goes on measuring."""
    pipe = subprocess.PIPE
    probe = subprocess.Popen([sys.executable, "-m", "injection.probe"], stdin=pipe, stdout=pipe, text=True)
    probe.stdin.write(json.dumps({"name": "cpu_share", "arguments": {"processes": [], "window_s": 600.0}}) + "\n")
    probe.stdin.flush()
    with pytest.raises(subprocess.TimeoutExpired):
        probe.wait(1.0)
    probe.stdin.close()
    assert probe.wait(10.0) == 0
    probe.stdout.close()
