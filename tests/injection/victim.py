"""Real processes to be hit, and a lab around them: what the injection tests share."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from injection import procfs
from injection.fault import Context
from injection.measure import ask_here
from injection.procfs import Identity
from injection.target import LiveProcess
from storage.records import Registration

#: Counts for ever; each line of its standard input makes it allocate 64 MiB and say how that went.
PROGRAM = """
import sys, threading
def spin():
    while True:
        sum(range(10000))
threading.Thread(target=spin, daemon=True).start()
held = []
print("up", flush=True)
for line in sys.stdin:
    try:
        held.append(bytearray(64 << 20))
        print("allocated", flush=True)
    except MemoryError:
        print("MemoryError", flush=True)
"""


def wait_until(truth: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not truth():
        assert time.monotonic() < deadline, f"not in {timeout_s} s: {what}"
        time.sleep(0.02)


class Victim:
    """A process that works and can be asked to allocate."""

    def __init__(self) -> None:
        pipe = subprocess.PIPE
        self.process = subprocess.Popen([sys.executable, "-S", "-c", PROGRAM], stdin=pipe, stdout=pipe, text=True)
        assert self.process.stdout.readline() == "up\n"
        self.who = procfs.identity(self.process.pid)

    @property
    def state(self) -> str:
        stat = procfs.read_stat(self.who.pid)
        return stat.state if stat else ""

    def allocate(self) -> str:
        self.process.stdin.write("more\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def context(self, backend: str = "process") -> Context:
        return Context(LiveProcess("train1", "trainers", "127.0.0.1", self.who), backend, ask_here)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


def register(registry: Path, component: str, who: Identity, host: str = "localhost") -> None:
    entry = Registration(component, component.rstrip("0123456789"), 1, host, who.pid, who.start_ticks, "127.0.0.1")
    whole = registry / f"{component}.tmp"
    whole.write_text(json.dumps(asdict(entry)))
    whole.rename(registry / f"{component}.json")


def plan_fault(kind: str, params: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    base = {
        "id": "f1",
        "kind": kind,
        "params": params or {},
        "target": {"type": "process", "component": "train1"},
        "trigger": {"step": 3, "stage": "train", "when": "enter", "after_s": 0.0},
        "until": {"when": "end"},
    }
    return base | changes


class Lab:
    """An injector on the plain host with its folders, as the lab would start it."""

    def __init__(self, folder: Path, faults: list[dict[str, Any]], *, lease_s: float = 1.0, **spec: Any) -> None:
        self.folder, self.journal, self.registry = folder, folder / "journal", folder / "registry"
        for path in (self.journal, self.registry):
            path.mkdir(exist_ok=True)
        self.history_path, self.seam, self.lease_s = folder / "history.jsonl", folder / "seam", lease_s
        (folder / "addresses.json").write_text(json.dumps({"host": {}, "bind": {}, "listen": {}, "dial": {}}))
        self.spec = {
            "run_id": "r1",
            "faults": faults,
            "socket": str(self.seam),
            "registry_dir": str(self.registry),
            "addresses": str(folder / "addresses.json"),
            "journal_dir": str(self.journal),
            "history": str(self.history_path),
            "place": "plain-host",
            "barrier_hold_s": 0.05,
            "lease_s": lease_s,
        } | spec
        self.process: subprocess.Popen[str] | None = None
        self._started: list[subprocess.Popen[str]] = []

    def start(self) -> None:
        (self.folder / "spec.json").write_text(json.dumps(self.spec))
        self.process = self._spawn(["injection.injector", str(self.folder / "spec.json")])

    def start_watchdog(self) -> subprocess.Popen[str]:
        who = procfs.identity(self.process.pid)
        watch = ["--watch", f"{who.pid}:{who.start_ticks}", "--lease", str(self.lease_s)]
        return self._spawn(["injection.watchdog", "--journal", str(self.journal), "--run", "r1", *watch])

    def _spawn(self, argv: list[str]) -> subprocess.Popen[str]:
        process = subprocess.Popen([sys.executable, "-m", *argv], stdout=subprocess.PIPE, text=True)
        self._started.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    def history(self, what: str = "") -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.history_path.read_text().splitlines()]
        return [line for line in lines if what in ("", line["what"])]

    def wait_for(self, what: str) -> dict[str, Any]:
        wait_until(lambda: bool(self.history(what)) or bool(self.history("invalid")), f"{what} in {self.history()}", 60)
        assert self.history(what), self.history()
        return self.history(what)[0]

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(timeout=60)

    def close(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.wait()
            process.stdout.close()


def started(labs: list[Lab], folder: Path, victim: Victim, faults: list[dict], **spec: object) -> Lab:
    """A lab whose faults are armed against the victim."""
    lab = Lab(folder, faults, **spec)
    labs.append(lab)
    lab.start()
    register(lab.registry, "train1", victim.who)
    wait_until(lambda: len(lab.history("armed")) + len(lab.history("invalid")) == len(faults), "all faults are armed")
    return lab


class Seam:
    """The job's end of the seam."""

    def __init__(self, path: Path, component: str = "controller") -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(30)
        self._socket.connect(str(path))
        self._lines = self._socket.makefile("rb")
        self._component, self._sequence = component, 0

    def reach(self, stage: str, step: int, phase: str = "enter") -> float:
        """Announce, wait for the answer, and return how long that took in seconds."""
        self._sequence += 1
        where = {"component": self._component, "step": step, "stage": stage, "phase": phase, "attrs": {}}
        line = {"seq": self._sequence, "wall_s": time.time(), "mono_s": time.monotonic(), **where}
        began = time.monotonic()
        self._socket.sendall(json.dumps(line).encode() + b"\n")
        answer = self._lines.readline()
        assert json.loads(answer)["seq"] == self._sequence
        return time.monotonic() - began

    def close(self) -> None:
        self._lines.close()
        self._socket.close()


def alive(pid: int) -> bool:
    stat = procfs.read_stat(pid)
    return stat is not None and stat.state not in "ZX"
