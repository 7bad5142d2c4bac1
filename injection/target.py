"""From a target in words (component, link) to the live process and addresses it means; refuses what must not be hit."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from injection.procfs import Identity
from storage.records import Registration

POLL_S = 0.05


class NoSuchTargetError(LookupError):
    """The target does not exist; the message lists what does."""


class ProtectedError(PermissionError):
    """The target must never be hit."""


@dataclass(frozen=True)
class LiveProcess:
    """A registered process of the job."""

    component: str
    host: str
    address: str
    who: Identity

    @property
    def name(self) -> str:
        """The component."""
        return self.component

    def check(self) -> None:
        """Refuse where the process is gone or its pid means another one by now. Called before each act."""
        if not self.who.alive():
            raise NoSuchTargetError(f"{self.component} (pid {self.who.pid}) is no longer running")


@dataclass(frozen=True)
class LiveLink:
    """A link of the job: packets from `src_address` on virtual host `src_host` to `dst_address`:`dst_port` on `dst_host`."""

    name: str
    src_host: str
    src_address: str
    dst_host: str
    dst_address: str
    dst_port: int
    dst_name: str = ""
    """the host name by which it is dialled; empty where that is an address"""


@dataclass(frozen=True)
class LivePath:
    """A file or folder of the job, and the process that it belongs to. What the path means may change until it is used."""

    process: LiveProcess
    path: Path

    @property
    def name(self) -> str:
        """The component, and the last part of the path."""
        return f"{self.process.component}: {self.path.name}"


@dataclass(frozen=True)
class Site:
    """Where targets are looked up: the job's registry folder, its name table, and pids that are the lab's own."""

    registry: Path
    addresses: Path
    protected: frozenset[int] = frozenset()
    folder: Path | None = None
    """the job's folder, where the name table does not lie in it"""

    @property
    def job(self) -> Path:
        """The job's folder; no path of a target leads out of it."""
        return self.folder or self.addresses.parent

    def registration(self, component: str) -> Registration | None:
        """What a component has registered, or None so far."""
        with suppress(FileNotFoundError):
            return Registration(**json.loads((self.registry / f"{component}.json").read_text()))
        return None

    def registrations(self) -> dict[str, Registration]:
        """Who has registered so far. Files appear whole (atomic rename), so a torn one is an error."""
        found = (json.loads(path.read_text()) for path in sorted(self.registry.glob("*.json")))
        return {item["component"]: Registration(**item) for item in found}

    def names(self) -> dict[str, dict[str, Any]]:
        """The name table: bind, listen, dial; `proxy` where a link's proxy does not bear the link's name."""
        table: dict[str, dict[str, Any]] = json.loads(self.addresses.read_text())
        return table

    def stamp(self) -> tuple[int, ...]:
        """Tells when anybody has registered, or the name table was written, since; two looks at inodes. 0 = not there."""
        return tuple(_written_ns(path) for path in (self.registry, self.addresses))


Live = LiveProcess | LiveLink | LivePath


def resolve(target: dict[str, Any], site: Site) -> Live:
    """The live target of a plan's fault. Raises NoSuchTargetError or ProtectedError, each with one clear sentence."""
    if target["type"] == "process":
        return _process(target["component"], site)
    if target["type"] == "path":
        return LivePath(_process(target["component"], site), site.job / target["path"])
    return _link(target["src"], target["dst"], target["purpose"], site)


def await_target(target: dict[str, Any], site: Site, timeout_s: float, stopped: Callable[[], bool]) -> Live:
    """`resolve`, as soon as the processes concerned have registered; the last refusal after `timeout_s` or when stopped."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return resolve(target, site)
        except (NoSuchTargetError, FileNotFoundError):
            if time.monotonic() > deadline or stopped():
                raise
        time.sleep(POLL_S)


class Whereabouts:
    """What a target meant at some moment, and whether it means something else by now."""

    def __init__(self, target: dict[str, Any], site: Site, live: Live, stamp: tuple[int, ...]) -> None:
        self._target, self._site, self._live, self._stamp = target, site, live, stamp

    def moved(self) -> bool:
        """Whether it is another process, or has other addresses. Whoever is gone, or half there, has not moved yet.

        Free (5 us) while nobody registers; `stamp` is that of the site from before the target was looked up.
        """
        now = self._site.stamp()
        if now == self._stamp:
            return False
        with suppress(LookupError, OSError, ValueError):
            moved = resolve(self._target, self._site) != self._live
            self._stamp = self._stamp if moved else now
            return moved
        return False


def _written_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _process(component: str, site: Site) -> LiveProcess:
    entry = site.registration(component)
    if entry is None:
        known = site.registrations()
        raise NoSuchTargetError(f"no process {component!r} has registered; registered: {_listing(known)}")
    who = Identity(entry.pid, entry.start_ticks)
    if entry.pid in {0, 1, os.getpid(), os.getppid()} | site.protected:
        raise ProtectedError(f"{component} is registered with pid {entry.pid}, which is protected")
    live = LiveProcess(component, entry.host, entry.address, who)
    live.check()
    return live


def _link(src: str, dst: str, purpose: str, site: Site) -> LiveLink:
    name = f"{src}>{dst}:{purpose}"
    table = site.names()
    if name not in table["dial"]:
        raise NoSuchTargetError(f"there is no link {name!r}; links: {_listing(table['dial'])}")
    source = _process(src, site)
    dialled, port = table["dial"][name].rsplit(":", 1)
    by_name = not dialled.replace(".", "").isdigit()
    address = table["listen"][dst][purpose].rsplit(":", 1)[0] if by_name else dialled
    if dst not in table["host"]:
        raise NoSuchTargetError(f"the name table does not tell on which host {dst} is")
    ends = (source.host, table["bind"].get(src, source.address), table["host"][dst], address, int(port))
    return LiveLink(table.get("proxy", {}).get(name, name), *ends, dialled if by_name else "")


def _listing(names: Any) -> str:
    return ", ".join(sorted(names)) or "none"
