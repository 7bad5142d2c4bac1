"""A site under a kill storm, one round of it, and everything that a kill could leave."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from bench.kill_each import network_of
from bench.parts import part
from injection import journal
from injection.journal import State
from injection.procfs import namespace_inode
from injection.strays import PREFIX, marked
from injection.throttle import limit_of
from injection.virtual import loop
from storage.layout import journal_dir, run_paths
from tasks.recover import recover

TOGETHER = {
    "injector and watchdog": ("injector", "watchdog"),
    "lab and keeper": ("lab", "keeper"),
    "lab and disk keeper": ("lab", "disk keeper"),
    "lab, injector and watchdog": ("lab", "injector", "watchdog"),
}
OF_PLACE = {"virtual-cluster": ("init", "disk keeper", "name server"), "plain-host": ("keeper", "proxy")}
#: With whom the place ends: the next round needs another.
ENDING = ("lab", "keeper", "init", "disk keeper", "name server", "proxy", *TOGETHER)
#: With whom nothing ends: the round comes to its own end, and with it its faults. A helper is a process of the hands, such as
#: the one that gives verdicts on packets: what it does ends with it.
GOING_ON = ("probe", "helper")
START_S, ANSWER_S, ARMED_S = 120.0, 20.0, 20.0
#: How long residue is waited for, s; what is there after that is left over.
LIMIT_S = 30.0
SETTLED_S = 5.0
POLL_S = 0.02


def victims(place: str) -> list[str]:
    """Everything that is killed in a place, in turn; those most often on whom the undoing depends."""
    absent = {"keeper"} if place == "virtual-cluster" else {"disk keeper"}
    if loop.why_not():  # an ordinary user's disk is memory, which nobody keeps
        absent.add("disk keeper")
    own = [name for name in OF_PLACE[place] if name not in absent]
    able = [name for name, parts in TOGETHER.items() if not absent & set(parts)]
    main = ["injector", "watchdog", "helper"]
    return ["injector", "lab", *main, "probe", *main, *own, *able]


class Site:
    """A lab process of its own with a place that stands, and what that place was like before anything was done in it."""

    def __init__(self, plan: dict[str, Any], home: Path) -> None:
        file = home / "plan.json"
        file.write_text(json.dumps(plan))
        self.place, self._devices = plan["place"], _devices()
        pipe = subprocess.PIPE
        argv = [sys.executable, "-m", "bench.storm_lab", str(file)]
        self.errors = (home / "lab.log").open("w")
        self.lab = subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=self.errors, text=True, start_new_session=True)
        told = self._answer(START_S)
        assert told, f"the site did not come up: {(home / 'lab.log').read_text()[-2000:]}"
        self.run, self.scratch = run_paths(told["run_id"]), Path(told["scratch"])
        inside = psutil.Process(self.lab.pid).children(recursive=True)
        self.own = self._everyone()
        self._networks = {network_of(process) for process in inside} - {namespace_inode("self", "net"), 0}
        self.inside = self.ask({"do": "look"})

    def settle(self) -> None:
        """Who is there now belongs here."""
        self.own = self._everyone()

    def _everyone(self) -> frozenset[int]:
        inside = psutil.Process(self.lab.pid).children(recursive=True)
        return frozenset(process.pid for process in inside) | {self.lab.pid}

    def order(self, request: dict[str, Any]) -> dict[str, Any]:
        """Have the lab do something; {} where it is gone."""
        assert self.lab.stdin is not None
        try:
            self.lab.stdin.write(json.dumps(request) + "\n")
            self.lab.stdin.flush()
        except OSError:
            return {}
        return self._answer(START_S)

    def _answer(self, patience_s: float) -> dict[str, Any]:
        assert self.lab.stdout is not None
        if not select.select([self.lab.stdout], [], [], patience_s)[0]:
            return {}
        line = self.lab.stdout.readline()
        return dict(json.loads(line)) if line else {}

    def ask(self, request: dict[str, Any]) -> Any:
        """Have the ground inside tell something; an error in words where it cannot."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as made:
                made.settimeout(ANSWER_S)
                made.connect(str(self.scratch / "ground"))
                made.sendall(json.dumps(request).encode() + b"\n")
                with made.makefile("rb") as lines:
                    return json.loads(lines.readline())
        except (OSError, ValueError) as error:
            return {"error": f"nobody answers inside: {type(error).__name__}"}

    def find(self, name: str) -> list[psutil.Process]:
        """The processes meant by a name: of helpers and probes one, of those killed together all."""
        if name in TOGETHER:
            return [process for one in TOGETHER[name] for process in self.find(one)]
        if name == "lab":
            return [psutil.Process(self.lab.pid)]
        with suppress(psutil.Error):
            here = psutil.Process(self.lab.pid).children(recursive=True)
            return [process for process in here if part(process) == name][: 1 if name in GOING_ON else None]
        return []

    def is_over(self, name: str) -> bool:
        """Whether the place ends with whoever was killed."""
        return name in ENDING

    def strays(self) -> list[str]:
        """Processes that came after the site stood and are still there; with the place over, those of the place as well."""
        spared = set() if self._ended() else self.own
        found = {process.pid: process for process in marked(self.scratch)}
        with suppress(psutil.Error):
            found |= {one.pid: one for one in psutil.Process(self.lab.pid).children(recursive=True)}
        watching = (one for one in psutil.process_iter(["cmdline"]) if self.run.run_id in " ".join(one.info["cmdline"] or []))
        found |= {one.pid: one for one in watching}
        return [_told(one) for pid, one in found.items() if pid not in spared and _lives(one)]

    def _ended(self) -> bool:
        return not (self.scratch / "ground").exists() or self.lab.poll() is not None

    def remains(self) -> list[str]:
        """What there is of a place that has ended."""
        old = (process for process in psutil.process_iter(["create_time"]) if process.pid != os.getpid())
        found = ["network namespaces"] if self._networks & {network_of(process) for process in old} else []
        found += [f"device {name}" for name in sorted(_devices() - self._devices)]
        images = [path.read_text() for path in Path("/sys/block").glob("loop*/loop/backing_file")]
        found += ["loop device" for image in images if str(self.scratch) in image]
        return found + ([f"folder {self.scratch}"] if self.scratch.exists() else [])

    def sweep(self) -> list[str]:
        """What the next start does; then what is still left, once the kernel has had its time to take down what was ended."""
        self.close()
        stuck = [str(one) for one in recover() if one.outcome == "stuck"]
        deadline = time.monotonic() + SETTLED_S
        while (found := [*self.strays(), *self.remains()]) and time.monotonic() < deadline:
            time.sleep(POLL_S)
        return [*stuck, *found, *(f"journal: {path.name}" for path in journal_dir().iterdir())]

    def close(self) -> None:
        """End the lab and wait until it is gone; idempotent."""
        if self.lab.stdin and not self.lab.stdin.closed:
            with suppress(OSError):
                self.lab.stdin.close()
        try:
            self.lab.wait(START_S)
        finally:
            self.errors.close()


class Round:
    """One life of injector and watchdog. `phase` and `in_force`: as it stood at the kill; `last`: what went last."""

    def __init__(self, site: Site, faults: list[dict[str, Any]]) -> None:
        self._site, self._faults = site, faults
        fresh = site.ask({"do": "fresh"})
        assert fresh == {}, fresh
        site.settle()
        self._told_before = len(self._history())
        self._records: dict[str, dict[str, Any]] = {}
        self._struck = threading.Event()
        self._ready = False
        self.phase, self.in_force, self.took_s = "", [], 0.0
        self.last: list[str] = []

    def kill(self, name: str, after_s: float) -> bool:
        """Go through the round and kill on the way; False when the round was over first."""
        over = threading.Event()
        killer = threading.Thread(target=self._kill, args=(name, time.monotonic() + after_s, over))
        keeper = threading.Thread(target=self._keep_records, args=(over,))
        began = time.monotonic()
        killer.start()
        keeper.start()
        try:
            self._go_through()
            self.took_s = time.monotonic() - began
            if not self._struck.is_set():
                over.set()
                killer.join()
        finally:
            over.set()
            killer.join()
            keeper.join()
        return self._struck.is_set()

    def _go_through(self) -> None:
        """Start, armed, fire, a stage's end, the round's end; each only as long as nobody was killed."""
        self._site.order({"do": "round", "faults": self._faults})
        self._ready = True
        self._wait(lambda: self._count("armed") + self._count("invalid") >= len(self._faults), ARMED_S)
        for phase in ("enter", "exit"):
            if not self._struck.is_set():
                self._site.ask({"do": "reach", "phase": phase})
                self._wait(lambda: False, 0.4)
        if not self._struck.is_set():
            self._site.order({"do": "end"})

    def _wait(self, truth: Callable[[], bool], limit_s: float) -> None:
        deadline = time.monotonic() + limit_s
        while not self._struck.is_set() and time.monotonic() < deadline and not truth():
            time.sleep(POLL_S)

    def _kill(self, name: str, due: float, over: threading.Event) -> None:
        """At the moment that was drawn, or as soon as there is somebody to kill."""
        while not over.is_set():
            found = self._site.find(name) if time.monotonic() >= due else []
            if found and (name not in TOGETHER or len(found) >= len(TOGETHER[name])):
                self.phase, self.in_force = self._phase(), self._in_force()
                self._victim, self._began = name, time.monotonic()
                for process in found:
                    with suppress(psutil.NoSuchProcess):
                        process.send_signal(signal.SIGKILL)
                self._struck.set()
                return
            time.sleep(0.005)

    def _keep_records(self, over: threading.Event) -> None:
        """Every record that was in the journal, for whoever wants to know afterwards whether it is gone."""
        while not over.wait(POLL_S):
            self._note_records()

    def _note_records(self) -> list[journal.Record]:
        with suppress(ValueError, OSError):
            found = list(journal.records(journal_dir(), self._site.run.run_id))
            for one in found:
                self._records[f"{one.fault_id} {json.dumps(one.undo)}"] = {
                    "kind": one.kind,
                    "backend": one.backend,
                    "undo": one.undo,
                }
            return found
        return []

    def await_nothing(self) -> tuple[float, list[str]]:
        """Seconds from the kill until nothing was left, and what still was when the time was over."""
        if self._victim in TOGETHER:  # what is promised then is said of the next start
            return 0.0, []
        if self._victim in GOING_ON:
            self._site.order({"do": "end"})
        left = ["not looked yet"]
        while left and time.monotonic() < self._began + LIMIT_S:
            left = self._left()
            self.last = left or self.last
            time.sleep(POLL_S if left else 0)
        gone_s = time.monotonic() - self._began
        if not left and self._victim not in ENDING:
            self._site.order({"do": "end"})
        return gone_s, left

    def _left(self) -> list[str]:
        open_ = [one for one in self._note_records() if one.state != State.REVERTED]
        ended = self._site.is_over(self._victim)
        found = self._site.strays() + self._of_the_machine()
        if ended:  # with the place everything in it is gone
            return found + self._site.remains()
        found += [f"fault in force: {one.kind} ({one.state}) {one.reason}" for one in open_]
        if found:
            return found
        gone = self._site.ask({"do": "gone", "records": list(self._records.values())})
        inside = self._site.ask({"do": "look"})
        found += gone if isinstance(gone, list) else [str(gone)]
        return found + [f"inside: {key}: {inside.get(key)}" for key in inside if inside[key] != self._site.inside.get(key)]

    def _of_the_machine(self) -> list[str]:
        """Control groups and their limits, which outlive every place."""
        undos = [one["undo"] for one in self._records.values() if one["undo"].get("outlives")]
        groups = [Path(undo["group"]) for undo in undos if Path(undo["group"]).name.startswith(PREFIX)]
        limits = [undo for undo in undos if "limit_bytes_per_s" in undo]
        found = [f"control group {path}" for path in groups if path.exists()]
        return found + [f"limit of {one['device']}" for one in limits if limit_of(one["group"], one["version"], one["device"])]

    def _history(self) -> list[dict[str, Any]]:
        with suppress(FileNotFoundError):
            lines = self._site.run.history.read_text().splitlines(keepends=True)
            return [json.loads(line) for line in lines if line.endswith("\n")]
        return []

    def _count(self, what: str) -> int:
        told = self._history()[self._told_before :]
        return len({line["fault_id"] for line in told if line["what"] == what})

    def _phase(self) -> str:
        if not self._ready:
            return "starting"
        if not self._count("applied"):
            return "arming" if self._count("armed") < len(self._faults) else "armed"
        return "in force" if self._count("gone") < self._count("applied") else "undone"

    def _in_force(self) -> list[str]:
        """Kind and backend of the faults that were applied and not yet told gone."""
        told = self._history()[self._told_before :]
        by = {what: {line["fault_id"] for line in told if line["what"] == what} for what in ("applied", "gone")}
        backends = {line["fault_id"]: f"{line['kind']} by {line['backend']}" for line in told if line["what"] == "armed"}
        return sorted(backends[one] for one in by["applied"] - by["gone"])


def _told(process: psutil.Process) -> str:
    try:
        return f"process {process.status()}: {' '.join(process.cmdline()[:4])}"
    except psutil.Error:
        return "process that is ending"


def _lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _devices() -> frozenset[str]:
    return frozenset(path.name for path in Path("/sys/class/net").iterdir())
