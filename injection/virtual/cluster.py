"""The virtual cluster: an ordinary user's own machines, gone without a trace when it is closed or the lab dies."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from injection.disk import Disk
from injection.entry import entry
from injection.keeper_client import KeeperClient, KeptProcess, PlaceError, make_scratch
from injection.virtual import loop
from injection.virtual.addresses import component_addresses, host_addresses

#: A new world for the command that follows. --kill-child: if `unshare` itself is killed, PID 1 goes too.
UNSHARE = (
    "unshare",
    "--user",
    "--map-root-user",
    "--mount",
    "--uts",
    "--net",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
)
HOSTS = ("control", "trainers", "rollouts")


class VirtualCluster:
    """A Place of virtual hosts in user, mount, UTS, network and PID namespaces of its own.

    ``component_hosts`` maps component -> virtual host. A ``disk`` is a loop device where there can be one (as root), else
    memory. Raises PlaceError, with the reason, where namespaces are refused.
    """

    kind = "virtual-cluster"

    def __init__(
        self,
        component_hosts: Mapping[str, str],
        hosts: tuple[str, ...] = HOSTS,
        disk: Disk | None = None,
        *,
        names: bool = False,
    ) -> None:
        strangers = sorted({host for host in component_hosts.values() if host not in hosts})
        if strangers:
            raise PlaceError(f"no virtual host {', '.join(strangers)}; hosts are {', '.join(hosts)}")
        self.hosts = hosts
        self._hosts = host_addresses(hosts)
        self._components = component_addresses(component_hosts)
        own = {host: [address] for host, address in self._hosts.items()}
        for component, host in component_hosts.items():
            own[host].append(self._components[component])
        self.scratch = make_scratch()
        wants: dict[str, object] = {"addresses": own, "names": names}
        self._outer: list[str] = []
        if disk is not None:
            disk.path.mkdir(parents=True, exist_ok=True)
            told = [str(disk.path), str(disk.mib)]
            if loop.why_not():
                wants["memory_disk"] = told
            else:
                self._outer = ["unshare", "--mount", sys.executable, "-m", "injection.virtual.loop", str(self.scratch), *told]
        init = entry("injection.virtual.init", self.scratch, json.dumps(wants), folder=self.scratch)
        self._keeper = KeeperClient([*self._outer, *UNSHARE, *init], self.scratch)

    def host_address(self, host: str) -> str:
        """The address of a host's ``eth0``."""
        return self._hosts[host]

    def component_address(self, component: str) -> str:
        """The address of a component, an alias on its host's ``eth0``."""
        return self._components[component]

    def spawn(
        self, argv: list[str], *, host: str, log: Path, env: dict[str, str] | None = None, cwd: Path | None = None
    ) -> KeptProcess:
        """Start a process on a virtual host, or with ``host=""`` beside them, where the bridge is."""
        return self._keeper.spawn(argv, host, log, env, cwd)

    def close(self) -> None:
        """End the cluster and everything in it; idempotent. A frozen disk is thawed first: who waits for it cannot die."""
        if self._outer:
            loop.thaw(self.scratch)
        self._keeper.close()
