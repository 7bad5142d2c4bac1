"""What an agent lets nobody do to its host: a process that was not set free, the way by which it is reached, the last reserves.

Each refusal is one sentence. What a kind itself refuses is not repeated here.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from injection.agent.request import FaultSpec, TargetSpec
from injection.disk import free_bytes
from injection.fault import RefusedError
from injection.measure_memory import available_memory
from injection.memory.pressure import MIB
from injection.proxy_client import ProxyClient, ProxyError
from injection.target import NoSuchTargetError, ProtectedError
from injection.virtual.addresses import NETWORK_NAMESPACES
from storage.records import FaultKind

#: Programs that are never hit, whoever sets them free: what starts, reaches and steers the machine and the lab.
NEVER = frozenset(
    {"init", "systemd", "systemd-journald", "systemd-udevd", "dbus-daemon", "sshd", "sshd-session", "dockerd", "containerd"}
    | {"containerd-shim-runc-v2", "kubelet", "prefect", "raylet", "gcs_server", "faultline"}
)
#: Words of a command line by which others of the lab are known: watchdogs, keepers, Prefect's server and worker.
OWN_WORDS = frozenset({"injection.watchdog", "injection.keeper", "prefect"})
#: ssh, Prefect, and Ray's head, dashboard and client server. The agent's own port comes to these.
PORTS = frozenset({22, 4200, 6379, 8265, 10001})
MEMORY_RESERVE_MIB, DISK_RESERVE_MIB = 512, 512
#: What a contender on a disk writes over and over.
WRITER_BYTES = 4 * MIB
KERNEL_THREADS = 2


@dataclass(frozen=True)
class Policy:
    """What was set free (program names, user ids, folders), and what is kept: ports, bytes of memory and of each disk.

    `state` is the agent's own folder, `proxy_api` where a proxy's API listens (empty: there is none).
    """

    state: Path
    programs: frozenset[str] = frozenset()
    users: frozenset[int] = frozenset()
    folders: tuple[Path, ...] = ()
    ports: frozenset[int] = PORTS
    memory_reserve_bytes: int = MEMORY_RESERVE_MIB * MIB
    disk_reserve_bytes: int = DISK_RESERVE_MIB * MIB
    proxy_api: str = ""

    def check(self, fault: FaultSpec, own: Iterable[int]) -> None:
        """Refuse what must not be. `own`: pids of the agent's own making.

        Raises NoSuchTargetError, ProtectedError or RefusedError.
        """
        self._check_process(fault.target.pid, frozenset(own))
        if fault.target.link is not None:
            self._check_link(fault.target)
        if fault.target.path is not None:
            self._check_path(fault)
        if fault.kind == FaultKind.MEMORY_PRESSURE and fault.params.get("where") == "device":
            raise RefusedError("where: device is known to a job's own configuration alone, and an agent has none")

    def _check_process(self, pid: int, own: frozenset[int]) -> None:
        try:
            process = psutil.Process(pid)
            name, user, words, parent = process.name(), process.uids().real, process.cmdline(), process.ppid()
        except psutil.NoSuchProcess as error:
            raise NoSuchTargetError(f"there is no process {pid}") from error
        told = f"process {pid} ({name})"
        if pid in (1, KERNEL_THREADS) or parent == KERNEL_THREADS:
            raise ProtectedError(f"{told} is protected: it is the machine's")
        if pid in own or pid in _line(os.getpid()):
            raise ProtectedError(f"{told} is protected: the agent needs it")
        if name in NEVER or OWN_WORDS & set(words):
            raise ProtectedError(f"{told} is protected by its name: it reaches or steers the machine or the lab")
        ports = sorted(self.ports & _listens_at(process))
        if ports:
            raise ProtectedError(f"{told} is protected: it listens at port {ports[0]}")
        if name not in self.programs and user not in self.users:
            raise ProtectedError(
                f"{told} of user {user} was not set free: neither its program nor its user is one of the agent's"
            )

    def _check_link(self, target: TargetSpec) -> None:
        link = target.link
        assert link is not None
        ports = self.relayed_ports(link.proxy) if link.proxy else [int(str(link.dst).rpartition(":")[2])]
        for port in ports:
            if port in self.ports:
                raise ProtectedError(f"port {port} is protected: the machine or the lab is steered by it")
        for network in (link.src_network, link.dst_network):
            if network and not (NETWORK_NAMESPACES / network).exists():
                known = ", ".join(sorted(path.name for path in NETWORK_NAMESPACES.glob("*"))) or "none"
                raise NoSuchTargetError(f"there is no network {network!r} here; there are: {known}")

    def relayed_ports(self, proxy: str) -> list[int]:
        """Ports of a proxy's two sides, the one that is dialled first. Raises NoSuchTargetError."""
        if not self.proxy_api:
            raise RefusedError("this agent has no proxy to relay links by (--proxy-api)")
        try:
            found = ProxyClient(self.proxy_api, proxy).proxy()
        except (ProxyError, OSError) as error:
            raise NoSuchTargetError(f"no proxy {proxy!r}: {error}") from error
        return [int(str(found[side]).rpartition(":")[2]) for side in ("listen", "upstream")]

    def folder_of(self, faults: Iterable[FaultSpec]) -> Path | None:
        """The smallest folder that holds all that was set free of what these faults name; None where they name no path."""
        paths = [Path(fault.target.path) for fault in faults if fault.target.path is not None]
        chosen = [folder for folder in self.folders if any(path.is_relative_to(folder) for path in paths)]
        return Path(os.path.commonpath(chosen)) if chosen else None

    def _check_path(self, fault: FaultSpec) -> None:
        path = Path(str(fault.target.path))
        if path.resolve() != path:
            raise RefusedError(f"{path} is not a plain path: it leads to {path.resolve()}")
        if not any(path.is_relative_to(folder) for folder in self.folders) or path.is_relative_to(self.state):
            raise ProtectedError(f"{path} was not set free: it lies in none of the folders that the agent may touch")
        if not path.exists():
            raise NoSuchTargetError(f"there is no {path}")
        if fault.kind in (FaultKind.DISK_FILL, FaultKind.IO_CONTENTION):
            self._check_disk(path, fault.kind, fault.params)

    def _check_disk(self, path: Path, kind: FaultKind, params: dict[str, Any]) -> None:
        if path.stat().st_dev in (Path("/").stat().st_dev, self.state.stat().st_dev):
            raise ProtectedError(f"{path} lies on the disk of the machine or of the agent itself")
        if params.get("how") == "hang":
            raise RefusedError("how: hang freezes a disk of the lab's own, and an agent has none")
        size, free = free_bytes(path)
        left = free - max(WRITER_BYTES, int(params.get("block_bytes", 0)))
        if kind == FaultKind.DISK_FILL:
            left = max(int(params.get("reserve_mib", 0) * MIB), int(size * (1 - params["percent"] / 100)))
        if left < self.disk_reserve_bytes:
            raise RefusedError(f"{path} would have {left // MIB} MiB left: the reserve is {self.disk_reserve_bytes // MIB} MiB")

    def check_memory(self, faults: Iterable[FaultSpec], promised_bytes: int) -> None:
        """Refuse what would leave too little memory. `promised_bytes`: what faults that are already there may take.

        It counts as if nothing of that were taken yet, so the answer is rather no. Raises RefusedError.
        """
        pressing = [fault for fault in faults if fault.kind == FaultKind.MEMORY_PRESSURE]
        for fault in pressing:
            headroom = int(fault.params["headroom_mib"] * MIB)
            if fault.params.get("where") == "machine" and headroom < self.memory_reserve_bytes:
                raise RefusedError(f"headroom_mib: the reserve of {self.memory_reserve_bytes // MIB} MiB is not touched")
        taken = promised_bytes + sum(wanted_bytes(fault) for fault in pressing)
        left = available_memory()["available_bytes"] - taken
        if pressing and left < self.memory_reserve_bytes:
            raise RefusedError(
                f"{left // MIB} MiB of memory would be left: the reserve is {self.memory_reserve_bytes // MIB} MiB"
            )


def wanted_bytes(fault: FaultSpec) -> int:
    """How much memory a fault takes for itself."""
    if fault.kind != FaultKind.MEMORY_PRESSURE:
        return 0
    if fault.params.get("where") == "machine":
        return max(0, available_memory()["available_bytes"] - int(fault.params["headroom_mib"] * MIB))
    return int(fault.params.get("ballast_mib", 0) * MIB)


def _line(pid: int) -> set[int]:
    """A process and all that it stems from: whoever ends one of these may end the agent."""
    me = psutil.Process(pid)
    return {pid, *(parent.pid for parent in me.parents())}


def _listens_at(process: psutil.Process) -> set[int]:
    """Ports at which a process listens, in its own network; none where this user may not know."""
    try:
        return {one.laddr.port for one in process.net_connections("tcp") if one.status == psutil.CONN_LISTEN}
    except psutil.Error:
        return set()
