"""Announcements: order, barrier, fail-open."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlhf import seam


class Listener:
    """Answers every announcement after `hold` s; with `mute` never."""

    def __init__(self, path: Path, hold: float = 0.0, mute: bool = False, garbage: bytes = b""):
        self.events: list[dict] = []
        self._hold, self._mute, self._garbage = hold, mute, garbage
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        stream, _ = self._server.accept()
        for line in stream.makefile("rb"):
            self.events.append(json.loads(line))
            time.sleep(self._hold)
            if not self._mute:
                stream.sendall(self._garbage or json.dumps({"seq": self.events[-1]["seq"]}).encode() + b"\n")


@pytest.fixture(autouse=True)
def _silent_afterwards(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    yield
    monkeypatch.delenv("STAGE_SOCKET", raising=False)
    seam.announce_as("controller")


def _listen(scratch: Path, monkeypatch: pytest.MonkeyPatch, **how: object) -> Listener:
    listener = Listener(scratch / "s", **how)  # type: ignore[arg-type]
    monkeypatch.setenv("STAGE_SOCKET", str(scratch / "s"))
    seam.announce_as("rollout1")
    return listener


def test_a_stage_announces_enter_then_exit_or_error(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage announces enter and exit, or error with the exception's text, which passes on."""
    listener = _listen(scratch, monkeypatch)
    with seam.stage("rollout", 3):
        pass
    with pytest.raises(RuntimeError, match="boom"), seam.stage("train", 3):
        raise RuntimeError("boom")
    told = [(event["stage"], event["phase"], event["step"], event["component"]) for event in listener.events]
    phases = [("rollout", "enter"), ("rollout", "exit"), ("train", "enter"), ("train", "error")]
    assert told == [(*phase, 3, "rollout1") for phase in phases]
    assert listener.events[-1]["attrs"] == {"error": "boom"}
    assert [event["seq"] for event in listener.events] == sorted({event["seq"] for event in listener.events})


def test_an_announcement_is_a_barrier(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller goes on only after the answer."""
    _listen(scratch, monkeypatch, hold=0.3)
    start = time.monotonic()
    seam.reach("rollout", 1, "enter")
    assert time.monotonic() - start >= 0.3


@pytest.mark.parametrize("how", [{"mute": True}, {"garbage": b"?\n"}, {"garbage": b'{"seq": -1}\n'}])
def test_a_bad_listener_is_asked_once(scratch: Path, monkeypatch: pytest.MonkeyPatch, how: dict) -> None:
    """Silence until the deadline, or nonsense: the caller goes on and never announces again."""
    listener = _listen(scratch, monkeypatch, **how)
    monkeypatch.setenv("STAGE_DEADLINE_S", "0.2")
    seam.reach("rollout", 1, "enter")
    seam.reach("rollout", 1, "exit")
    assert [event["phase"] for event in listener.events] == ["enter"]


def test_a_dead_listener_costs_nothing(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No socket where the variable points: the announcement returns without an error."""
    monkeypatch.setenv("STAGE_SOCKET", str(scratch / "nobody"))
    seam.announce_as("controller")
    with seam.stage("train", 0):
        pass
