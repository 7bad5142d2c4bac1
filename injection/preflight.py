"""What this host allows, and why not the rest. Every answer comes from trying, in namespaces of our own, not from a version.

``python -m injection.preflight`` is the part that runs inside such namespaces; it prints one JSON object.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from injection import kernel, netfilter
from injection.cgroup import group_of
from injection.keeper_client import PlaceError, clean_environment, make_scratch
from injection.memory.group import why_not
from injection.packet_queue import PacketQueue
from injection.virtual import loop
from injection.virtual.cluster import UNSHARE

TRY_S = 30.0
#: What "no such file or directory" means of a queue or device.
LACKING = "it was built without it"
#: Settings that refuse namespaces, with the value that does and what to tell.
REFUSING_SETTINGS = (
    ("/proc/sys/kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone is 0"),
    ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1", "AppArmor restricts user namespaces"),
    ("/proc/sys/user/max_user_namespaces", "0", "user.max_user_namespaces is 0"),
    ("/proc/sys/user/max_net_namespaces", "0", "user.max_net_namespaces is 0"),
)
#: The queues that could shape the cluster's network, and what is said of what there is.
QUEUES = ("htb", "tbf", "netem")
SERVES = {kind: f"{kind} queues on a virtual host's eth0" for kind in QUEUES}
SERVES["nfqueue"] = "packets of a link held, lost or refused where they arrive"


@dataclass(frozen=True)
class Check:
    """Whether the host allows ``backend``; ``reason`` says what it serves, or why it cannot be had."""

    backend: str
    available: bool
    reason: str


def checks() -> tuple[Check, ...]:
    """Try everything; takes about half a second and leaves nothing behind."""
    namespaces = _namespaces()
    found = _inside() if namespaces.available else {}
    network = [_device(found, kind) for kind in ("bridge", "veth")]
    cluster = next((check for check in (namespaces, *network) if not check.available), None)
    return (
        Check("virtual-cluster", cluster is None, cluster.reason if cluster else "several hosts in namespaces of one user"),
        _plain_host(),
        *(_queue(found, kind, cluster) for kind in SERVES),
        _relay(),
        _processors(),
        _disk(),
        _groups(),
    )


def best_place() -> str:
    """``virtual-cluster`` where this host allows it, else ``plain-host``."""
    return "virtual-cluster" if checks()[0].available else "plain-host"


def _namespaces() -> Check:
    if shutil.which("unshare") is None:
        return Check("namespaces", available=False, reason="the program unshare (util-linux) is not installed")
    tried = subprocess.run([*UNSHARE, "true"], capture_output=True, text=True, timeout=TRY_S, check=False)
    if tried.returncode == 0:
        return Check("namespaces", available=True, reason="")
    said = (tried.stderr.strip().splitlines() or ["unshare failed without a word"])[-1]
    causes = [told for path, value, told in REFUSING_SETTINGS if _setting(path) == value]
    return Check("namespaces", available=False, reason="; ".join([said, *causes]))


def _setting(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _inside() -> dict[str, str]:
    """Name -> "" where it works inside namespaces, or the kernel's refusal."""
    argv = [*UNSHARE, sys.executable, "-m", "injection.preflight"]
    tried = subprocess.run(argv, capture_output=True, text=True, timeout=TRY_S, check=False, env=clean_environment())
    if tried.returncode != 0:
        return {}
    found: dict[str, str] = json.loads(tried.stdout)
    return found


def _device(found: dict[str, str], kind: str) -> Check:
    trouble = found.get(kind, "not tried")
    return Check(kind, not trouble, f"this kernel refuses {kind} devices: {trouble}")


def _queue(found: dict[str, str], kind: str, cluster: Check | None) -> Check:
    name = f"kernel {kind}"
    if cluster is not None:
        return Check(name, available=False, reason=f"needs the virtual cluster: {cluster.reason}")
    trouble = found.get(kind, "not tried")
    return Check(name, not trouble, f"this kernel refuses {kind}: {trouble}" if trouble else SERVES[kind])


def _plain_host() -> Check:
    try:
        make_scratch().rmdir()
    except (PlaceError, OSError) as error:
        return Check("plain-host", available=False, reason=str(error))
    return Check("plain-host", available=True, reason="this machine itself, one host")


def _relay() -> Check:
    try:
        socket.create_server(("127.0.0.1", 0)).close()
    except OSError as error:
        return Check("proxy", available=False, reason=f"cannot listen on loopback: {error}")
    return Check("proxy", available=True, reason="delay, bandwidth and reset of links on the plain host; bytes, not packets")


def _disk() -> Check:
    """Of which kind the job's own disk would be, where a scenario has faults of disks."""
    refusal = loop.why_not()
    if refusal:
        return Check("disk device", available=False, reason=f"{refusal}: the job's disk is memory, it can be full but not slow")
    return Check(
        "disk device", available=True, reason="disk-fill, and io-contention (contend, throttle, hang) on a loop device"
    )


def _groups() -> Check:
    """Whether a process can be put into a memory group of its own, and so be killed by the kernel."""
    home = group_of("self", "memory")
    refusal = why_not(home.fresh()) if home else "this machine has no memory controller for groups of processes"
    if refusal:
        return Check("memory group", available=False, reason=f"{refusal}: memory runs out by an allocation error")
    return Check("memory group", available=True, reason="memory-pressure where: group, ended by the kernel")


def _processors() -> Check:
    count = len(os.sched_getaffinity(0))
    share = "target and contenders can have a core of their own" if count > 1 else "one core only: contention hits all"
    return Check("process", available=True, reason=f"kill, pause, cpu-contention, memory-pressure; {count} cores, {share}")


def try_inside() -> dict[str, str]:
    """Make devices and each queue in a network of its own, which the calling thread enters; name -> "" or the refusal."""
    kernel.unshare(kernel.CLONE_NEWNET)  # whoever calls it, nothing is made in a network that others use
    from pyroute2 import IPRoute

    with IPRoute() as netlink:
        found = {"bridge": _attempt(lambda: netlink.link("add", ifname="br0", kind="bridge"))}
        found["veth"] = _attempt(lambda: netlink.link("add", ifname="v0", kind="veth", peer="v1"))
        found["ifb"] = _attempt(lambda: netlink.link("add", ifname="i0", kind="ifb"))
        device = 0 if found["veth"] else netlink.link_lookup(ifname="v0")[0]
        options: dict[str, dict[str, Any]] = {
            "htb": {"default": 0},
            "tbf": {"rate": 100_000, "burst": 10_000, "latency": "50ms"},
            "netem": {"delay": 1000},
        }
        for kind in QUEUES:
            found[kind] = _attempt(lambda kind=kind: netlink.tc("add", kind, device, 0x10000, **options[kind]))  # type: ignore[misc]
            if not found[kind]:
                netlink.tc("del", index=device, root=True)
    found["netem"] = found["netem"] or found["ifb"]
    found["nfqueue"] = _attempt(_packet_rules)
    return found


def _packet_rules() -> None:
    with netfilter.open_socket() as netlink, PacketQueue().socket:
        rules = [netfilter.by_chance(0.5) + netfilter.drop(), netfilter.reset(), netfilter.to_queue(netlink, 1)]
        netfilter.try_out(netlink, rules)


def _attempt(act: Callable[[], Any]) -> str:
    from pyroute2 import NetlinkError

    try:
        act()
    except (NetlinkError, OSError) as error:
        code = error.code if isinstance(error, NetlinkError) else error.errno
        return LACKING if code == errno.ENOENT else os.strerror(code or errno.EIO)
    return ""


@cache
def absent_backends() -> frozenset[str]:
    """Which backends of links cannot be had where we are, found out by trying, once: none can by who has no right to try."""
    kinds = ("htb", "netem", "nfqueue")
    try:
        with ThreadPoolExecutor(max_workers=1) as thread:  # the network it enters ends with it
            found = thread.submit(try_inside).result()
    except PermissionError:
        return frozenset(kinds)
    return frozenset(kind for kind in kinds if found[kind])


if __name__ == "__main__":
    sys.stdout.write(json.dumps(try_inside()))
