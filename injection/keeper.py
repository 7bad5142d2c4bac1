"""The process every other process of a place descends from: it starts, signals, reaps and, when the lab is gone, ends them.

Its standard input is the read end of a pipe whose only writer is the lab: end of file means that the lab ended, however it
ended, and the keeper ends everything. The same server is PID 1 of the virtual cluster and the plain host's keeper
(``python -m injection.keeper SCRATCH``); only the namespaces differ.

Requests are one JSON line per connection over the unix socket ``SCRATCH/door``; each is answered by one JSON line:
``spawn`` (argv, host, log, env, cwd) -> key, pid; ``poll`` (key) -> code; ``wait`` (key, timeout) -> code;
``signal`` (key, number); errors as ``{"error": sentence, "errno": n}``. A key is never used twice, a pid may be.
"""

from __future__ import annotations

import json
import os
import selectors
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from injection import kernel
from injection.birth import Birth, bear

SOCKET_NAME = "door"
#: Longest request line, bytes; a name table or an environment fits many times.
REQUEST_LIMIT = 1 << 20


@dataclass
class Child:
    """A process that was asked for. ``code`` is None while it runs; negative = ended by that signal."""

    pid: int
    code: int | None = None


@dataclass
class Waiter:
    """A connection that wants to hear of the end of a child, until ``deadline`` (monotonic seconds)."""

    connection: socket.socket
    key: int
    deadline: float


class Keeper:
    """The server. ``namespaces(host)`` names the namespace files of a host; ``end_all`` kills whatever may still run."""

    def __init__(self, scratch: Path, namespaces: Callable[[str], list[str]], end_all: Callable[[], None]) -> None:
        self.scratch = scratch
        self.namespaces = namespaces
        self.end_all = end_all
        self.children: dict[int, Child] = {}
        self.by_pid: dict[int, Child] = {}
        self.waiters: list[Waiter] = []
        self.buffers: dict[socket.socket, bytes] = {}
        self.selector = selectors.DefaultSelector()
        self.running = True

    def serve(self) -> None:
        """Say on standard output that it stands, serve until the lab is gone, then end everything and remove scratch."""
        listener = self._listen()
        self.selector.register(listener, selectors.EVENT_READ, self._accept)
        self.selector.register(self._wake_on_signals(), selectors.EVENT_READ, self._woken)
        self.selector.register(sys.stdin.fileno(), selectors.EVENT_READ, self._lab)
        os.write(sys.stdout.fileno(), b'{"ready": true}\n')
        while self.running:
            for event, _ in self.selector.select(self._patience()):
                event.data(event.fileobj)
            self._answer_waiters()
        self.end_all()
        shutil.rmtree(self.scratch, ignore_errors=True)

    def _listen(self) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(self.scratch / SOCKET_NAME))
        listener.listen(64)
        listener.settimeout(0)
        return listener

    def _wake_on_signals(self) -> socket.socket:
        """Signals become bytes on a socket, so that the loop sees them and nothing runs in a handler."""
        inner, outer = socket.socketpair()
        inner.settimeout(0)
        outer.settimeout(0)
        self._outer = outer  # kept alive: the interpreter holds only its number
        signal.set_wakeup_fd(outer.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the lab's to answer; it then closes the pipe
        return inner

    def _woken(self, inner: socket.socket) -> None:
        if signal.SIGTERM in inner.recv(4096):
            self.running = False
        self._reap()

    def _lab(self, descriptor: int) -> None:
        if not os.read(descriptor, 4096):
            self.running = False

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            child = self.by_pid.pop(pid, None)
            if child is not None:
                child.code = os.waitstatus_to_exitcode(status)

    def _accept(self, listener: socket.socket) -> None:
        connection, _ = listener.accept()
        connection.settimeout(0)
        self.buffers[connection] = b""
        self.selector.register(connection, selectors.EVENT_READ, self._read)

    def _read(self, connection: socket.socket) -> None:
        try:
            data = connection.recv(65536)
        except OSError:
            data = b""
        line = self.buffers[connection] + data
        if not data or len(line) > REQUEST_LIMIT:
            self._hang_up(connection)
            return
        self.buffers[connection] = line
        if line.endswith(b"\n"):
            self._handle(connection, line)

    def _handle(self, connection: socket.socket, line: bytes) -> None:
        try:
            request = json.loads(line)
            if request["do"] == "wait":
                deadline = time.monotonic() + float(request["timeout"])
                self.waiters.append(Waiter(connection, self._child_key(request), deadline))
                return
            answer = {"spawn": self._spawn, "poll": self._poll, "signal": self._signal}[request["do"]](request)
        except OSError as error:
            answer = {"error": error.strerror or str(error), "errno": error.errno or 0}
        except ValueError as error:
            answer = {"error": str(error), "errno": 0}
        except (KeyError, TypeError) as error:
            answer = {"error": f"bad request: {error!r}", "errno": 0}
        self._answer(connection, answer)

    def _child_key(self, request: dict[str, Any]) -> int:
        key = int(request["key"])
        if key not in self.children:
            raise ValueError(f"no process was started under key {key}")
        return key

    def _spawn(self, request: dict[str, Any]) -> dict[str, Any]:
        namespaces = self.namespaces(request["host"])
        child = Child(bear(Birth(request["argv"], request["log"], request["env"], request["cwd"], namespaces)))
        key = len(self.children) + 1
        self.children[key] = self.by_pid[child.pid] = child
        return {"key": key, "pid": child.pid}

    def _poll(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"code": self.children[self._child_key(request)].code}

    def _signal(self, request: dict[str, Any]) -> dict[str, Any]:
        child = self.children[self._child_key(request)]
        if child.code is None:  # not reaped, so the pid is still this child's
            os.kill(child.pid, int(request["number"]))
        return {"code": child.code}

    def _patience(self) -> float | None:
        """Seconds until the first waiter's time is over; None without waiters."""
        if not self.waiters:
            return None
        return max(0.0, min(waiter.deadline for waiter in self.waiters) - time.monotonic())

    def _answer_waiters(self) -> None:
        now = time.monotonic()
        for waiter in list(self.waiters):
            code = self.children[waiter.key].code
            if code is not None or now >= waiter.deadline:
                self._answer(waiter.connection, {"code": code})

    def _answer(self, connection: socket.socket, answer: dict[str, Any]) -> None:
        with suppress(OSError):  # the asker may be gone; the answer concerns nobody else
            connection.sendall(json.dumps(answer).encode() + b"\n")
        self._hang_up(connection)

    def _hang_up(self, connection: socket.socket) -> None:
        self.waiters = [waiter for waiter in self.waiters if waiter.connection is not connection]
        if self.buffers.pop(connection, None) is not None:
            self.selector.unregister(connection)
            connection.close()


def end_descendants() -> None:
    """Kill every descendant of this process and reap them; orphans among them have become its children."""
    me = psutil.Process()
    while True:
        for process in me.children(recursive=True):
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                continue
        except ChildProcessError:
            return
        time.sleep(0.005)  # a killed process needs a moment to go; a new orphan is found in the next round


def no_namespaces(host: str) -> list[str]:
    """The plain host has one host and enters nothing."""
    if host not in ("", "localhost"):
        raise ValueError(f"no host {host!r} here; the plain host has localhost alone")
    return []


def main() -> None:
    """The plain host's keeper."""
    kernel.adopt_orphans()
    Keeper(Path(sys.argv[1]), no_namespaces, end_descendants).serve()


if __name__ == "__main__":
    main()
