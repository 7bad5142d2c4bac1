"""What a fault is: the shape every file in `injection/faults/` has, and what it is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from injection.company import Company, Treatment
from injection.target import Live, LiveLink, LivePath, LiveProcess

#: What must be restored, as plain JSON: prior values and identities. It alone suffices to revert.
Undo = dict[str, Any]
#: Asks the independent probe: name of a measurement and its arguments -> figures, each key ending in its unit.
Ask = Callable[[str, dict[str, Any]], dict[str, Any]]


class RefusedError(RuntimeError):
    """The fault cannot be done here; nothing was touched. The message is one sentence."""


class NotYetError(RefusedError):
    """What the fault acts on is not there yet, but may come: arming is tried again until its time is over."""


class StuckError(RuntimeError):
    """Undoing failed; the message says what is left behind."""


@dataclass(frozen=True)
class Measurement:
    """What a probe found: whether it agrees with the claim, by which means, and the figures."""

    ok: bool
    probe: str
    measured: dict[str, float | int | str | bool]


@dataclass(frozen=True)
class Context:
    """What a fault acts on and by which means.

    `proxy_api` is `host:port` where a proxy stands, else empty; `job` is the job's folder; `name` is the fault's own, by which
    `company`, the faults on links that are in force besides, knows it.
    """

    target: Live
    backend: str
    ask: Ask
    proxy_api: str = ""
    job: Path = Path()
    name: str = ""
    company: Company = field(default_factory=Company)

    def process(self) -> LiveProcess:
        """The target as a process. Raises RefusedError where it is not one."""
        if isinstance(self.target, LiveProcess):
            return self.target
        raise RefusedError(f"the target must be a process, not the {_kind(self.target)} {self.target.name}")

    def link(self) -> LiveLink:
        """The target as a link. Raises RefusedError where it is not one."""
        if isinstance(self.target, LiveLink):
            return self.target
        raise RefusedError(f"the target must be a link, not the {_kind(self.target)} {self.target.name}")

    def path(self) -> LivePath:
        """The target as a path. Raises RefusedError where it is not one."""
        if isinstance(self.target, LivePath):
            return self.target
        raise RefusedError(f"the target must be a path, not the {_kind(self.target)} {self.target.name}")


def _kind(target: Live) -> str:
    return {LiveProcess: "process", LiveLink: "link", LivePath: "path"}[type(target)]


class Fault(Protocol):
    """Arm, apply, verify, revert. `arm` runs in a thread that lives until the fault is reverted.

    `undo` and `apply` run there too where the backend is one of `capability.OWN_THREAD`, else in whichever thread heard the
    announcement. A fault that comes again is made anew each time.
    """

    def arm(self) -> None:
        """Prepare everything slow; nothing is visible to the job. Raises RefusedError."""

    def undo(self) -> Undo:
        """What reverting would need if `apply` ran now. Journaled when armed; before `apply` again if it then differs.

        That costs a write to disk between the announcement and the effect, so it should not.
        """

    def apply(self) -> dict[str, Any]:
        """Do it, fast (no fork, no import), and return the state read back. Raises RefusedError."""

    def verify(self) -> Measurement:
        """Measure the effect on the resource by the probe, which does not read back the rule that made it."""

    @staticmethod
    def revert(undo: Undo) -> None:
        """Compare, then restore; again and again without harm; nothing to do where the target is gone. Raises StuckError."""

    @staticmethod
    def gone(undo: Undo, ask: Ask) -> Measurement:
        """Measure that nothing is left, by the same probe."""


@runtime_checkable
class OnLink(Protocol):
    """A fault on a link, which tells what its packets meet, so that the proofs of others on it know."""

    def does(self) -> Mapping[str, Treatment]:
        """By direction (forward, backward)."""
