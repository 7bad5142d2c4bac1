"""Where a job runs: the protocols every room codes against, and the one door that opens a place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from injection.disk import Disk
from injection.host_place import HostPlace
from injection.keeper_client import PlaceError
from injection.virtual.cluster import VirtualCluster

__all__ = ["KINDS", "Place", "PlaceError", "Process", "open_place"]


class Process(Protocol):
    """A process started in a place."""

    pid: int
    """as seen inside the place"""

    def poll(self) -> int | None:
        """None while running; else the exit code, negative = ended by that signal."""

    def wait(self, timeout: float) -> int | None:
        """Wait up to ``timeout`` seconds; as `poll`."""

    def signal(self, number: int) -> None:
        """Send a signal to this process alone."""


class Place(Protocol):
    """Hosts on which processes can be started, all of which end with it."""

    @property
    def kind(self) -> str:
        """``virtual-cluster`` or ``plain-host``."""

    @property
    def hosts(self) -> tuple[str, ...]:
        """Names of the hosts."""

    @property
    def scratch(self) -> Path:
        """A folder of the place, path under 60 characters, mode 0700, for unix sockets; removed at the end."""

    def host_address(self, host: str) -> str:
        """The IPv4 address of a host. Raises KeyError."""

    def component_address(self, component: str) -> str:
        """The IPv4 address a component binds and dials from. Raises KeyError."""

    def spawn(
        self, argv: list[str], *, host: str, log: Path, env: dict[str, str] | None = None, cwd: Path | None = None
    ) -> Process:
        """Start ``argv`` on ``host`` ("" = beside the hosts), standard output and error appended to ``log``.

        It gets a clean environment plus ``env``, a session of its own, and works in ``cwd`` (default: scratch).
        Raises OSError if it cannot be started, ValueError for an unknown host, PlaceError if the place is gone.
        """

    def close(self) -> None:
        """End every process in the place and wait until they are gone; idempotent."""


_MAKERS: dict[str, Callable[..., Place]] = {"virtual-cluster": VirtualCluster, "plain-host": HostPlace}
KINDS = tuple(_MAKERS)


def open_place(kind: str, component_hosts: Mapping[str, str], disk: Disk | None = None, *, names: bool = False) -> Place:
    """Make a place of ``kind`` whose hosts carry the given components (component -> host). Raises PlaceError, one sentence.

    ``disk``: a file system of the lab's own, mounted inside. ``names``: components have host names, told by a name server that
    the lab must start (`injection.names`).
    """
    if kind not in _MAKERS:
        raise PlaceError(f"unknown kind of place {kind!r}; known: {', '.join(KINDS)}")
    return _MAKERS[kind](component_hosts, disk=disk, names=names)
