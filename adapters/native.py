"""The native adapter: how the lab drives its own GRPO job (`rlhf/`) in a place."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from injection.place import Place, PlaceError, Process
from rlhf import ray_nodes
from rlhf.config import JobConfig
from rlhf.topology import components, default_port, name_table, role_and_rank, virtual_host
from storage.layout import RunPaths
from storage.records import Link, Role

#: The plain host's Ray node. Not 127.0.0.1: Ray would take the outer network's address in its place.
PLAIN_RAY_ADDRESS = "127.0.0.2"
STOP_GRACE_S = 5.0


def component_hosts(config: JobConfig, place_kind: str) -> dict[str, str]:
    """Which host of a place carries each component."""
    names = components(config)
    return {name: virtual_host(name) if place_kind == "virtual-cluster" else "localhost" for name in names}


class NativeJob:
    """One GRPO job: Ray's nodes, the scheduler and the controller. The workers are the scheduler's."""

    def __init__(self, place: Place, paths: RunPaths, config: JobConfig) -> None:
        self._place = place
        self._paths = paths
        self._config = config
        self._hosts = component_hosts(config, place.kind)
        self._ports = {} if place.kind == "virtual-cluster" else free_ports(list(self._hosts))
        self._nodes: list[Process] = []
        self.scheduler: Process | None = None
        self.controller: Process | None = None

    def direct_table(self) -> dict[str, Any]:
        """The name table with nothing between a link's two ends."""
        return self._table(None)

    def prepare(self, dial: Mapping[str, str] | None) -> None:
        """Write the name table; ``dial`` says what to dial instead of a listener's own address."""
        self._paths.addresses.write_text(json.dumps(self._table(dial), indent=2) + "\n")

    def start(self, stage_socket: Path) -> None:
        """Start Ray, scheduler and controller. They wait for one another, each with a bound of its own."""
        folder = self._place.scratch / "ray"
        folder.mkdir(mode=0o700)
        env = ray_nodes.environment(folder) | self._job_environment(stage_socket)
        head = self._start_ray(folder, env)
        control = self._hosts["scheduler"]
        job_dir = str(self._paths.job)
        scheduler = [sys.executable, "-m", "rlhf.scheduler", job_dir, "--ray", f"{head}:{ray_nodes.PORT}"]
        self.scheduler = self._spawn(scheduler, control, env, self._paths.lab_logs / "scheduler.log")
        self.controller = self._spawn([sys.executable, "-m", "rlhf.job", job_dir], control, env, self._own_log("controller"))

    def stop(self) -> None:
        """End the controller, then the scheduler, whose end takes the workers along. Ray's nodes are the place's to kill."""
        with contextlib.suppress(PlaceError, OSError):
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
            argv = ray_nodes.node_argv(own, self._address(host), [host], join="" if host == hosts[0] else head)
            self._nodes.append(self._spawn(argv, host, env, self._paths.lab_logs / f"ray-{host}.log"))
        return head

    def _address(self, host: str) -> str:
        return self._place.host_address(host) if self._place.kind == "virtual-cluster" else PLAIN_RAY_ADDRESS

    def _spawn(self, argv: list[str], host: str, env: dict[str, str], log: Path) -> Process:
        return self._place.spawn(argv, host=host, log=log, env=env, cwd=self._paths.job)

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
    """A free loopback port for every component that listens, all held open until all are chosen."""
    held = {name: socket.socket() for name in names if role_and_rank(name)[0] != Role.CONTROLLER}
    try:
        for one in held.values():
            one.bind(("127.0.0.1", 0))
        return {name: int(one.getsockname()[1]) for name, one in held.items()}
    finally:
        for one in held.values():
            one.close()
