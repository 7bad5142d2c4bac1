"""The plain host as a Place: no namespaces, one host, and the same keeper, so that everything still ends with the lab."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from injection.disk import Disk
from injection.keeper_client import KeeperClient, KeptProcess, PlaceError, make_scratch

ADDRESS = "127.0.0.1"


class HostPlace:
    """The machine itself, for use where namespaces are refused. Every component must be on ``localhost``."""

    kind = "plain-host"
    hosts = ("localhost",)

    def __init__(self, component_hosts: Mapping[str, str], disk: Disk | None = None, *, names: bool = False) -> None:
        strangers = sorted({host for host in component_hosts.values() if host != "localhost"})
        if strangers:
            raise PlaceError(f"the plain host has localhost alone, not {', '.join(strangers)}")
        if disk or names:
            raise PlaceError("the plain host has neither a disk of the lab's own nor a name server: use the virtual cluster")
        self._components = frozenset(component_hosts)
        self.scratch = make_scratch()
        self._keeper = KeeperClient([sys.executable, "-m", "injection.keeper", str(self.scratch)], self.scratch)

    def host_address(self, host: str) -> str:
        """Loopback."""
        if host != "localhost":
            raise KeyError(host)
        return ADDRESS

    def component_address(self, component: str) -> str:
        """Loopback, for every component that was named."""
        if component not in self._components:
            raise KeyError(component)
        return ADDRESS

    def spawn(
        self, argv: list[str], *, host: str, log: Path, env: dict[str, str] | None = None, cwd: Path | None = None
    ) -> KeptProcess:
        """Start a process here."""
        return self._keeper.spawn(argv, host, log, env, cwd)

    def close(self) -> None:
        """End every process of the place; idempotent."""
        try:
            self._keeper.close()
        finally:
            self._keeper.end_strays()
