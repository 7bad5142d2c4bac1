"""The lab's side of a keeper: start it, ask it for processes, and end it, and with it everything it started."""

from __future__ import annotations

import json
import os
import selectors
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from injection import strays
from injection.keeper import SOCKET_NAME

REPOSITORY = Path(__file__).resolve().parent.parent
#: Longest scratch path, so that unix sockets in it stay below the kernel's 108 bytes.
MAX_SCRATCH = 59
START_S = 30.0
END_S = 20.0
ANSWER_S = 30.0


class PlaceError(Exception):
    """A place cannot be made, or no longer does what it is asked; the text is one sentence for a person."""


def clean_environment(extra: dict[str, str] | None = None) -> dict[str, str]:
    """What a process of a place starts with: our interpreter and code, home and language, and ``extra``; nothing else."""
    prefix = Path(sys.prefix)
    home = os.environ.get("HOME") or str(Path.home())
    path = os.environ.get("PATH") or os.defpath
    base = {"PATH": f"{prefix / 'bin'}:{path}", "HOME": home, "LANG": os.environ.get("LANG", "C.UTF-8")}
    base |= {"VIRTUAL_ENV": str(prefix), "PYTHONPATH": str(REPOSITORY)}
    return base | (extra or {})


def make_scratch() -> Path:
    """A new folder with a short and neutral path, mode 0700. Raises PlaceError when none short enough can be had."""
    for parent in strays.PARENTS:
        if os.access(parent, os.W_OK | os.X_OK):
            scratch = Path(tempfile.mkdtemp(prefix=strays.PREFIX, dir=parent))
            if len(str(scratch)) <= MAX_SCRATCH:
                return scratch
            scratch.rmdir()
    raise PlaceError(
        f"no writable folder for unix sockets with a path of at most {MAX_SCRATCH} characters (tried /tmp, /var/tmp)"
    )


class KeeperClient:
    """A running keeper. ``argv`` starts it; ``scratch`` is removed when it ends."""

    def __init__(self, argv: list[str], scratch: Path) -> None:
        self.scratch = scratch
        self._hold = strays.hold(scratch)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        self._keeper = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,  # the lifeline: only this process holds the write end
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=clean_environment(),
            start_new_session=True,
        )
        try:
            self._await_ready()
        except PlaceError:
            self.close()
            raise

    def _await_ready(self) -> None:
        assert self._keeper.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._keeper.stdout, selectors.EVENT_READ)
            if not selector.select(START_S):
                raise PlaceError(f"the place did not stand after {START_S:.0f} s: {self._said()}")
        if not self._keeper.stdout.readline():
            raise PlaceError(f"the place could not be made: {self._said()}")

    def _said(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it ended without a word"

    @property
    def pid(self) -> int:
        """The pid, on this machine, of the process whose end ends the place."""
        return self._keeper.pid

    def ask(self, request: dict[str, Any], patience_s: float = ANSWER_S) -> dict[str, Any]:
        """Send one request, return its answer. Raises OSError for what the kernel refused, PlaceError if the place is gone."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(patience_s)
                connection.connect(str(self.scratch / SOCKET_NAME))
                connection.sendall(json.dumps(request).encode() + b"\n")
                with connection.makefile("rb") as stream:
                    line = stream.readline()
        except OSError as error:
            raise PlaceError(f"the place is gone: it does not answer ({error.strerror or error})") from error
        if not line.endswith(b"\n"):
            raise PlaceError("the place ended before it answered")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise OSError(answer["errno"], answer["error"]) if answer["errno"] else ValueError(answer["error"])
        return answer

    def end_strays(self) -> None:
        """Kill what a keeper that was itself killed could not."""
        strays.end_strays(self.scratch)

    def spawn(self, argv: list[str], host: str, log: Path, env: dict[str, str] | None, cwd: Path | None) -> KeptProcess:
        """Start a process; see `injection.place.Place.spawn`."""
        log.parent.mkdir(parents=True, exist_ok=True)
        folder = str((cwd or self.scratch).resolve())
        full = clean_environment(env) | {strays.MARK: str(self.scratch)}
        answer = self.ask({"do": "spawn", "argv": argv, "host": host, "log": str(log.resolve()), "env": full, "cwd": folder})
        return KeptProcess(self, answer["key"], answer["pid"])

    def close(self) -> None:
        """End the keeper and wait until it is gone; idempotent. Raises PlaceError if it does not go."""
        assert self._keeper.stdin is not None
        assert self._keeper.stdout is not None
        self._keeper.stdin.close()
        try:
            self._keeper.wait(END_S)
        except subprocess.TimeoutExpired:
            self._keeper.kill()
            self._keeper.wait(END_S)
            raise PlaceError(f"the place had to be killed: it did not end within {END_S:.0f} s") from None
        finally:
            self._keeper.stdout.close()
            self._errors.close()
            shutil.rmtree(self.scratch, ignore_errors=True)
            self._let_go()

    def _let_go(self) -> None:
        if self._hold >= 0:
            os.close(self._hold)
            self._hold = -1


class KeptProcess:
    """A process that a keeper started. ``pid`` is as seen inside the place."""

    def __init__(self, keeper: KeeperClient, key: int, pid: int) -> None:
        self.pid = pid
        self._keeper = keeper
        self._key = key
        self._code: int | None = None

    def poll(self) -> int | None:
        """None while running; else the exit code, negative = signal."""
        if self._code is None:
            self._code = self._keeper.ask({"do": "poll", "key": self._key})["code"]
        return self._code

    def wait(self, timeout: float) -> int | None:
        """Wait up to ``timeout`` seconds for the end; as `poll`."""
        deadline = time.monotonic() + timeout
        while self._code is None:
            left = max(0.0, deadline - time.monotonic())
            self._code = self._keeper.ask({"do": "wait", "key": self._key, "timeout": left}, left + ANSWER_S)["code"]
            if time.monotonic() >= deadline:
                break
        return self._code

    def signal(self, number: int) -> None:
        """Send a signal to this process alone; nothing happens when it has ended."""
        self._keeper.ask({"do": "signal", "key": self._key, "number": int(number)})
