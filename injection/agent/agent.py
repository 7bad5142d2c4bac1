"""The agent of a host: lends it for experiments, several at once, each under a lease, and writes down who asked for what.

Its folder holds `journal/` (what may be in force), `experiments/<id>/` (what was seen of each), `audit.jsonl` and `lock`.
Nothing is begun before the audit log tells of it on disk; undoing asks nobody and waits for nothing.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from injection.agent.audit import Audit
from injection.agent.experiment import END_S, Experiment, FailedError, settle
from injection.agent.policy import Policy, wanted_bytes
from injection.agent.request import Request, read_request
from injection.capability import AGENT_HOST, PLAIN_HOST, capability
from injection.fault import RefusedError
from injection.recover import Outcome, sweep
from injection.target import NoSuchTargetError

Message = dict[str, Any]
MOST_EXPERIMENTS = 16
#: How many that have ended are still told about; the rest is in the folder.
REMEMBERED = 100


def hold(state: Path) -> int:
    """Make an agent's folder and hold it for as long as this process lives. Raises RefusedError where another agent does."""
    for folder in (state, state / "journal", state / "experiments"):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise RefusedError(f"another agent keeps its state in {state}") from None
    return descriptor


def recover(state: Path) -> list[Outcome]:
    """Undo what an agent that is gone left in force; nothing where there never was one, or where it lives."""
    if not (state / "lock").exists():
        return []
    try:
        descriptor = hold(state)
    except RefusedError:
        return []
    try:
        return sweep(state / "journal")
    finally:
        os.close(descriptor)


class Agent:
    """What is asked over the wire, method by method: `(who, message) -> answer`. Safe to be asked by many threads."""

    def __init__(self, policy: Policy) -> None:
        self._policy, self._state = policy, policy.state
        self._lock = hold(self._state)
        self._turn = threading.Lock()
        self._experiments: dict[str, Experiment] = {}
        self._closing = False
        self._audit = Audit(self._state / "audit.jsonl")
        self.left = [str(one) for one in sweep(self._state / "journal")]
        self._audit.note("", "started", pid=os.getpid(), left=self.left)

    def protect(self, port: int) -> None:
        """Keep a port out of every experiment: the agent's own, once it has one."""
        self._policy = replace(self._policy, ports=self._policy.ports | {port})

    def methods(self) -> dict[str, Callable[[str, Message], Message]]:
        """Name on the wire -> method."""
        return {"Run": self.run, "Beat": self.beat, "Status": self.status, "List": self.list_all, "Cancel": self.cancel}

    def run(self, who: str, message: Message) -> Message:
        """Begin an experiment; answers when its faults are in force.

        Raises ValueError, NoSuchTargetError, ProtectedError, RefusedError or FailedError, OSError.
        """
        self._audit.note(who, "run", request=message)
        try:
            experiment = self._begin(who, read_request(message))
        except Exception as error:
            self._audit.note(who, "refused", reason=str(error))
            raise
        experiment.settled.wait()
        if experiment.ended.is_set():
            raise FailedError(f"experiment {experiment.id}: {experiment.reason}")
        self._audit.note(who, "in force", experiment=experiment.id)
        return experiment.status()

    def _begin(self, who: str, request: Request) -> Experiment:
        with self._turn:
            self._check(request)
            experiment = Experiment(request, who, self._state, self._policy.proxy_api, self._note_end)
            relayed = {link.proxy for fault in request.faults if (link := fault.target.link) is not None and link.proxy}
            ports = {proxy: self._policy.relayed_ports(proxy)[0] for proxy in relayed}
            self._audit.note(who, "begin", experiment=experiment.id)
            experiment.start(ports, self._policy.folder_of(request.faults))
            ended = [one.id for one in self._experiments.values() if one.ended.is_set()]
            for name in ended[:-REMEMBERED]:
                del self._experiments[name]
            self._experiments[experiment.id] = experiment
        return experiment

    def _check(self, request: Request) -> None:
        live = [one for one in self._experiments.values() if not one.ended.is_set()]
        if self._closing:
            raise RefusedError("the agent is ending")
        if len(live) >= MOST_EXPERIMENTS:
            raise RefusedError(f"there are {len(live)} experiments already, and no more are taken")
        if stuck := self._stuck():
            raise RefusedError(f"an earlier fault cannot be undone, so nothing is begun: {stuck}")
        own = {child.pid for child in psutil.Process().children(recursive=True)}
        for fault in request.faults:
            capability(fault.kind, PLAIN_HOST if request.relayed else AGENT_HOST, fault.params)
            self._policy.check(fault, own)
        promised = sum(wanted_bytes(fault) for one in live for fault in one.request.faults)
        self._policy.check_memory(request.faults, promised)

    def _stuck(self) -> str:
        """What ended experiments left, in words, once it has been tried again."""
        live = {one.id for one in self._experiments.values() if not one.ended.is_set()}
        runs = {path.name.split(".")[0] for path in (self._state / "journal").glob("*.json")} - live
        return "; ".join(told for run in sorted(runs) if (told := settle(self._state / "journal", run)))

    def _note_end(self, experiment: Experiment) -> None:
        """What becomes of it goes into the log; a log that cannot be written keeps nobody from ending."""
        with suppress(OSError):
            about = {"experiment": experiment.id, "reason": experiment.reason, "stuck": experiment.stuck}
            self._audit.note(experiment.who, "ended", **about)

    def _find(self, message: Message) -> Experiment:
        name = message.get("experiment")
        with self._turn:
            if isinstance(name, str) and name in self._experiments:
                return self._experiments[name]
            known = ", ".join(self._experiments) or "none"
        raise NoSuchTargetError(f"there is no experiment {name!r}; there are: {known}")

    def beat(self, who: str, message: Message) -> Message:
        """Keep the lease of one's own experiment. Raises NoSuchTargetError, RefusedError, FailedError, OSError."""
        experiment = self._find(message)
        if who != experiment.who:
            raise RefusedError(f"experiment {experiment.id} is {experiment.who}'s, who alone keeps its lease")
        experiment.beat()
        return experiment.status()

    def status(self, who: str, message: Message) -> Message:  # noqa: ARG002 - anybody with a token may ask
        """Where an experiment is. Raises NoSuchTargetError."""
        return self._find(message).status()

    def list_all(self, who: str, message: Message) -> Message:  # noqa: ARG002 - anybody with a token may ask
        """All that there are, and the last that ended."""
        with self._turn:
            return {"experiments": [one.status() for one in self._experiments.values()]}

    def cancel(self, who: str, message: Message) -> Message:
        """Undo an experiment, whoever's it is; answers when it is undone. Raises NoSuchTargetError.

        That the log cannot be written keeps nobody from undoing.
        """
        experiment = self._find(message)
        experiment.stop(f"cancelled by {who}")
        experiment.ended.wait(2 * END_S)
        self._audit.note(who, "cancel", experiment=experiment.id)
        return experiment.status()

    def close(self) -> None:
        """Undo everything and end."""
        with self._turn:
            self._closing = True
            live = list(self._experiments.values())
        for experiment in live:
            experiment.stop("the agent was told to end")
        for experiment in live:
            experiment.ended.wait(2 * END_S)
        self._audit.note("", "ended", pid=os.getpid())
        self._audit.close()
        os.close(self._lock)
