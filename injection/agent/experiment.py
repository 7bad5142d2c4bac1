"""One experiment of an agent: an injector and a watchdog of its own, kept by a lease, with a thread as long as it lives.

The agent does nothing to anybody itself. It writes down for the injector who is meant, announces the one point at which the
faults fire, and renews the journal's lease when the experimenter gives a sign of life. When no more signs come the injector is
told to undo; should agent or injector be dead or hang by then, the watchdog undoes, two seconds later.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from injection import journal, procfs
from injection.agent.request import POINT, FaultSpec, Request
from injection.capability import AGENT_HOST, PLAIN_HOST
from injection.entry import entry
from injection.host_place import ADDRESS, HostPlace
from injection.journal import State
from injection.keeper_client import KeptProcess, PlaceError
from injection.procfs import Identity
from injection.watchdog import undo_run
from injection.watchdog_client import outliving
from storage.jsonlines import read_json_lines
from storage.records import Registration, to_dict

#: How much later than the agent the watchdog acts, and how long undoing may take before it does so as well.
GRACE_S, UNDO_S = 2.0, 4.0
#: How long injector and watchdog may take to stand, faults to be armed, those that fire at once to be applied, all to go.
START_S, ARM_S, FIRE_S, END_S = 30.0, 20.0, 6.0, 40.0
POLL_S = 0.05
#: A fault's states in the order of its life, as the history tells them.
STATES = ("armed", "fired", "applied", "verified", "reverted", "gone")


class FailedError(RuntimeError):
    """The experiment cannot go on; the message is one sentence."""


class Experiment:
    """Safe to be asked from any thread. `reason` says why it ended, `stuck` what it left behind; then `on_end` is called."""

    def __init__(self, request: Request, who: str, state: Path, proxy_api: str, on_end: Callable[[Experiment], None]) -> None:
        self.id = f"x{secrets.token_hex(5)}"
        self.who, self.request = who, request
        self._proxy_api = proxy_api if request.relayed else ""
        self._journal, self._folder = state / "journal", state / "experiments" / self.id
        self._files = self._folder
        self._on_end = on_end
        self._turn = threading.Lock()
        self._until = time.monotonic() + START_S + ARM_S
        self._end = ""
        self._place: HostPlace | None = None
        self._injector: KeptProcess | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None
        self._members: list[Identity] = []
        self.settled, self.ended = threading.Event(), threading.Event()
        self.reason, self.stuck = "", ""

    def start(self, relayed_ports: dict[str, int], files: Path | None) -> None:
        """Write down who is meant, and go. Raises OSError.

        `relayed_ports`: proxy -> the port at which it is dialled. `files`: the folder that no path may lead out of.
        """
        self._files = files or self._folder
        (self._folder / "registry").mkdir(parents=True, mode=0o700)
        for fault in self.request.faults:
            self._register(fault)
        (self._folder / "addresses.json").write_text(json.dumps(name_table(self.request, relayed_ports)))
        threading.Thread(target=self._live, name=self.id).start()

    def _register(self, fault: FaultSpec) -> None:
        link = fault.target.link
        network, address = ("", ADDRESS) if link is None else (link.src_network, link.src or ADDRESS)
        who = procfs.identity(fault.target.pid)
        entry = Registration(fault.id, fault.id, 0, network, who.pid, who.start_ticks, address)
        (self._folder / "registry" / f"{fault.id}.json").write_text(json.dumps(to_dict(entry)))

    def _spec(self, seam: Path) -> dict[str, Any]:
        return {
            "run_id": self.id,
            "faults": [fault.plan() for fault in self.request.faults],
            "socket": str(seam),
            "registry_dir": str(self._folder / "registry"),
            "addresses": str(self._folder / "addresses.json"),
            "journal_dir": str(self._journal),
            "history": str(self._folder / "history.jsonl"),
            "place": PLAIN_HOST if self._proxy_api else AGENT_HOST,
            "proxy_api": self._proxy_api,
            "barrier_hold_s": 0.0,
            "lease_s": self.request.lease_s,
            "arm_timeout_s": 1.0,
            "protected_pids": [os.getpid()],
            "renews_lease": False,
            "job_dir": str(self._files),
        }

    def beat(self) -> None:
        """A sign of life of the experimenter: the lease begins anew. Raises FailedError when it is over, OSError."""
        with self._turn:
            if self._end or self.ended.is_set():
                raise FailedError(f"experiment {self.id} is over: {self._end or self.reason}")
            if self.settled.is_set():  # until then nothing depends on it
                self._renew(self.request.lease_s)

    def _renew(self, for_s: float) -> None:
        journal.renew_lease(self._journal, self.id, for_s + GRACE_S)
        self._until = time.monotonic() + for_s

    def stop(self, reason: str) -> None:
        """Have it undone; what was said first counts."""
        with self._turn:
            self._end = self._end or reason

    def status(self) -> dict[str, Any]:
        """Where it is: state, seconds left of the lease, and each fault with its proofs."""
        told = self._history()
        state = "ended" if self.ended.is_set() else "ending" if self._end else "in force" if self.settled.is_set() else "arming"
        left = 0.0 if self._end or self.ended.is_set() else max(0.0, self._until - time.monotonic())
        faults = [_told(fault, [line for line in told if line["fault_id"] == fault.id]) for fault in self.request.faults]
        about = {"experiment": self.id, "who": self.who, "state": state, "reason": self.reason or self._end}
        return {**about, "stuck": self.stuck, "lease_s": self.request.lease_s, "lease_left_s": round(left, 3), "faults": faults}

    def _history(self) -> list[dict[str, Any]]:
        path = self._folder / "history.jsonl"
        return [line for line in read_json_lines(path)[0] if line.get("fault_id")] if path.exists() else []

    def _live(self) -> None:
        """From the first process to the last, whatever happens."""
        try:
            self._fire(self._stand())
            self.settled.set()
            self._hold()
        except Exception as error:  # whatever went wrong is why it ends
            self.stop(str(error) or type(error).__name__)
        finally:
            try:
                self._finish()
            except Exception as error:  # what may be left behind must be shown
                self.stuck = f"{type(error).__name__}: {error}"
            self.reason = self._end
            self._on_end(self)
            self.ended.set()
            self.settled.set()

    def _stand(self) -> Path:
        """Injector and watchdog; nothing is fired before both stand. Returns the socket at which the point is announced."""
        self._renew(START_S + ARM_S)
        self._place = HostPlace({})
        seam = self._place.scratch / "stage"
        (self._folder / "spec.json").write_text(json.dumps(self._spec(seam)))
        argv = entry("injection.injector", self._folder / "spec.json", folder=self._place.scratch)
        logs = [self._folder / f"{name}.log" for name in ("injector", "watchdog")]
        self._injector = self._place.spawn(argv, host="localhost", log=logs[0])
        watched = [self._injector.pid, os.getpid()]
        self._watchdog = outliving(self._journal, self.id, self.request.lease_s, watched, logs[1])
        self._members = [procfs.identity(process.pid) for process in (self._injector, self._watchdog)]
        self._await(lambda: all("ready" in log.read_text() for log in logs), "injector and watchdog stood", START_S)
        return seam

    def _fire(self, seam: Path) -> None:
        """Announce the point when all faults are armed; those that fire at once are in force when this returns."""
        faults = self.request.faults
        self._await(lambda: len(self._said("armed")) == len(faults), "all faults were armed", ARM_S)
        with self._turn:
            if self._end:
                raise FailedError(self._end)
            self._renew(max(self.request.lease_s, FIRE_S))
        announce(seam)
        at_once = {fault.id for fault in faults if not fault.after_s}
        self._await(lambda: at_once <= self._said("applied"), "all faults were applied", FIRE_S)
        with self._turn:
            self._renew(self.request.lease_s)

    def _said(self, what: str) -> set[str]:
        return {line["fault_id"] for line in self._history() if line["what"] == what}

    def _await(self, truth: Any, what: str, limit_s: float) -> None:
        deadline = time.monotonic() + limit_s
        while not truth():
            self._check()
            if time.monotonic() > deadline:
                raise FailedError(f"not within {limit_s:.0f} s: {what}")
            time.sleep(POLL_S)

    def _hold(self) -> None:
        """Until the faults are over by themselves, each with both its proofs, or something else ends them."""
        everyone = {fault.id for fault in self.request.faults}
        while self._said("gone") & self._said("verified") != everyone:
            self._check()
            if time.monotonic() > self._until:
                raise FailedError("the lease was not kept: no sign of life from the experimenter")
            time.sleep(POLL_S)
        self.stop("over")

    def _check(self) -> None:
        """Raise FailedError where it must end: told so, a fault that went wrong, or one of its processes gone."""
        if self._end:
            raise FailedError(self._end)
        for line in self._history():
            if line["what"] in ("invalid", "stuck", "expired"):
                raise FailedError(f"{line['fault_id']}: {line['reason']}")
        for name, who in zip(("injector", "watchdog"), self._members, strict=False):
            if not who.alive():
                raise FailedError(f"its {name} has ended")

    def _finish(self) -> None:
        """Undo by the injector, else by the watchdog, else here; then look at the journal what is left."""
        with suppress(OSError):
            journal.renew_lease(self._journal, self.id, UNDO_S)
        with suppress(PlaceError, OSError):
            if self._injector is not None:
                self._injector.signal(signal.SIGINT)
                self._injector.wait(END_S)
        with suppress(PlaceError):
            if self._place is not None:
                self._place.close()
        if self._watchdog is not None:
            self._watchdog.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._watchdog.wait(END_S)
        self.stuck = settle(self._journal, self.id)


def settle(folder: Path, run_id: str) -> str:
    """Undo and forget what the journal still tells of a run whose hands are gone. What is stuck, in words; empty = nothing."""
    undo_run(folder, run_id)
    stuck = []
    for record in list(journal.records(folder, run_id)):
        if record.state == State.REVERTED:
            journal.forget(folder, record)
        else:
            stuck.append(f"{record.kind} {record.fault_id} of {run_id}: {record.reason or record.state}")
    if not stuck:
        journal.lease_file(folder, run_id).unlink(missing_ok=True)
    return "; ".join(stuck)


def name_table(request: Request, relayed_ports: dict[str, int]) -> dict[str, Any]:
    """The experiment's links as a job's name table has them: by fault, for there is no component here that had a name."""
    table: dict[str, dict[str, Any]] = {"host": {}, "bind": {}, "listen": {}, "dial": {}, "proxy": {}}
    for fault in request.faults:
        link = fault.target.link
        if link is None:
            continue
        name, far = f"{fault.id}>{fault.id}-far:link", f"{fault.id}-far"
        table["host"][far] = link.dst_network
        table["bind"][fault.id] = link.src or ADDRESS
        table["dial"][name] = f"{ADDRESS}:{relayed_ports[link.proxy]}" if link.proxy else link.dst
        if link.proxy:
            table["proxy"][name] = link.proxy
    return table


def announce(seam: Path) -> None:
    """Tell the injector that the point is reached, and wait until it has done what it does there. Raises OSError."""
    where = {"component": "agent", "step": POINT["step"], "stage": POINT["stage"], "phase": POINT["when"], "attrs": {}}
    line = {"seq": 1, "wall_s": time.time(), "mono_s": time.monotonic(), **where}
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as made:
        made.settimeout(ARM_S)
        made.connect(str(seam))
        made.sendall(json.dumps(line).encode() + b"\n")
        if not made.recv(64):
            raise ConnectionResetError("the injector hung up")


def _told(fault: FaultSpec, lines: list[dict[str, Any]]) -> dict[str, Any]:
    """A fault and what was seen of it: its state, by what means, and the receipts."""
    said = {line["what"]: line for line in lines}
    state = next((state for state in reversed(STATES) if state in said), "arming")
    backend = said["armed"]["backend"] if "armed" in said else ""
    receipts = {about: said[about]["receipt"] for about in ("verified", "gone") if about in said}
    wrong = next((line["reason"] for line in lines if line["what"] in ("invalid", "stuck", "expired")), "")
    return {"id": fault.id, "kind": str(fault.kind), "backend": backend, "state": state, "wrong": wrong, **receipts}
