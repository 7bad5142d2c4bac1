"""The native adapter: how the lab drives its own GRPO job (`rlhf/`) in a place."""

from __future__ import annotations

import json
import random
import shutil
import signal
import socket
import sys
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from injection.place import Place, PlaceError, Process
from rlhf import ray_nodes
from rlhf.config import JobConfig
from rlhf.topology import components, default_port, name_table, virtual_host
from storage.layout import RunPaths
from storage.records import Link

STOP_GRACE_S = 5.0
#: Ray's own port among the free ones; no component is called so.
RAY = "ray"
#: Below it lie the ports that Ray's own workers take (10002 to 19999).
FROM = 20000


def component_hosts(config: JobConfig, place_kind: str) -> dict[str, str]:
    """Which host of a place carries each component."""
    names = components(config)
    return {name: virtual_host(name, config.colocated) if place_kind == "virtual-cluster" else "localhost" for name in names}


class NativeJob:
    """One GRPO job: Ray's nodes, the scheduler and the controller. The workers are the scheduler's."""

    def __init__(self, place: Place, paths: RunPaths, config: JobConfig, *, ray_metrics: bool = False) -> None:
        self._place = place
        self._paths = paths
        self._config = config
        self._ray_metrics = ray_metrics
        self._hosts = component_hosts(config, place.kind)
        self._ports: dict[str, int] = {}
        self._ray_port = ray_nodes.PORT
        if place.kind != "virtual-cluster":  # a network shared with others: take what is free
            self._ports = free_ports([*(name for name in self._hosts if default_port(name)), RAY])
            self._ray_port = self._ports.pop(RAY)
        self._nodes: dict[str, Process] = {}
        self.scheduler: Process | None = None
        self.controller: Process | None = None

    def direct_table(self) -> dict[str, Any]:
        """The name table with nothing between a link's two ends."""
        return self._table(None)

    def prepare(self, dial: Mapping[str, str] | None) -> None:
        """Write the name table; ``dial`` says what to dial instead of a listener's own address."""
        self._paths.addresses.write_text(json.dumps(self._table(dial), indent=2) + "\n")

    def ray_nodes(self) -> dict[str, tuple[str, str]]:
        """Host -> folder and address of its node of Ray; empty where they are not to tell of themselves."""
        hosts = set(self._hosts.values()) if self._ray_metrics else set()
        return {host: (str(self._place.scratch / "ray" / host), self._address(host)) for host in hosts}

    def start(self, stage_socket: Path) -> None:
        """Start Ray, scheduler and controller. They wait for one another, each with a bound of its own."""
        folder = self._place.scratch / "ray"
        folder.mkdir(mode=0o700)
        env = ray_nodes.environment(folder, metrics=self._ray_metrics) | self._job_environment(stage_socket)
        head = self._start_ray(folder, env)
        control = self._hosts["scheduler"]
        job_dir = str(self._paths.job)
        scheduler = [sys.executable, "-m", "rlhf.scheduler", job_dir, "--ray", f"{head}:{self._ray_port}"]
        self.scheduler = self._spawn(scheduler, control, env, self._paths.lab_logs / "scheduler.log")
        self.controller = self._spawn([sys.executable, "-m", "rlhf.job", job_dir], control, env, self._own_log("controller"))

    def processes(self) -> list[tuple[str, Process, tuple[Path, ...]]]:
        """Name, process and logs of what was started, the cause of another's end before it. The workers are not among them."""
        logs, outer = self._paths.logs, self._paths.lab_logs
        found: list[tuple[str, Process, tuple[Path, ...]]]
        found = [(f"Ray's node {host}", node, (self._node_log(host),)) for host, node in self._nodes.items()]
        if self.scheduler:
            found.append(("the scheduler", self.scheduler, (logs / "scheduler.log", outer / "scheduler.log")))
        if self.controller:
            found.append(("the controller", self.controller, (logs / "controller.log",)))
        return found

    def stop(self) -> None:
        """End the controller, then the scheduler, whose end takes the workers along. Ray's nodes are the place's to kill."""
        with suppress(PlaceError, OSError):
            for process in (self.controller, self.scheduler):
                if process is not None and process.poll() is None:
                    process.signal(signal.SIGTERM)
                    process.wait(STOP_GRACE_S)

    def _start_ray(self, folder: Path, env: dict[str, str]) -> str:
        """One node a host, the head where the scheduler is. Returns the head's address."""
        hosts = sorted(set(self._hosts.values()), key=lambda host: host != self._hosts["scheduler"])
        head = self._address(hosts[0])
        for host in hosts:
            own = folder / host
            own.mkdir()
            shutil.copy(folder / "token", own / "token")
            join = "" if host == hosts[0] else head
            argv = ray_nodes.node_argv(own, self._address(host), [host], join, self._ray_port)
            self._nodes[host] = self._spawn(argv, host, env, self._node_log(host))
        return head

    def _address(self, host: str) -> str:
        return self._place.host_address(host) if self._place.kind == "virtual-cluster" else ray_nodes.LOOPBACK

    def _spawn(self, argv: list[str], host: str, env: dict[str, str], log: Path) -> Process:
        return self._place.spawn(argv, host=host, log=log, env=env, cwd=self._paths.job)

    def _node_log(self, host: str) -> Path:
        return self._paths.lab_logs / f"ray-{host}.log"

    def _own_log(self, component: str) -> Path:
        """What a process writes before it has opened its own log belongs there too."""
        return self._paths.logs / f"{component}.log"

    def _job_environment(self, stage_socket: Path) -> dict[str, str]:
        interface = "eth0" if self._place.kind == "virtual-cluster" else "lo"
        return {"STAGE_SOCKET": str(stage_socket), "GLOO_SOCKET_IFNAME": interface, "OMP_NUM_THREADS": "1"}

    def _table(self, dial: Mapping[str, str] | None) -> dict[str, Any]:
        return name_table(
            self._config,
            self._place.component_address,
            lambda name: self._ports.get(name, default_port(name)),
            dial,
            self._hosts.__getitem__,
        )


def job_links(table: Mapping[str, Any]) -> list[Link]:
    """The links of a name table."""
    found = []
    for name, address in table["dial"].items():
        ends, _, purpose = name.partition(":")
        src, _, dst = ends.partition(">")
        found.append(Link(src, dst, purpose, address))
    return found


def free_ports(names: list[str]) -> dict[str, int]:
    """A free loopback port for each name, all held open until all are chosen.

    They lie from `FROM` up to those that the kernel gives to outgoing connections, where that leaves any: a connection of any
    program of this machine could else take a port between its being chosen and its worker listening there.
    """
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    below = list(range(FROM, lowest))
    random.SystemRandom().shuffle(below)
    with ExitStack() as held:
        return {name: _hold(held, below) for name in names}


def _hold(held: ExitStack, below: list[int]) -> int:
    one = held.enter_context(socket.socket())
    while below:
        with suppress(OSError):
            one.bind(("127.0.0.1", below.pop()))
            return int(one.getsockname()[1])
    one.bind(("127.0.0.1", 0))
    return int(one.getsockname()[1])
