"""The independent measurements: each looks at the resource, never at the rule that the hands put up.

A measurement is a function of plain JSON arguments that returns plain figures, so that it can be made by another process.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

from injection import procfs
from injection.measure_disk import disk_again, disk_space, disk_write, file_bytes, write_rate
from injection.measure_memory import device_memory, machine_memory, memory_group
from injection.procfs import Identity

SAMPLE_S = 0.02


def process_state(pid: int, start_ticks: int, window_s: float = 0.0) -> dict[str, Any]:
    """States seen and CPU seconds used by a process over `window_s`; `states` is e.g. "T"; `alive` false where it is gone."""
    who = Identity(pid, start_ticks)
    first = last = procfs.read_stat(pid)
    states: set[str] = set()
    deadline = time.monotonic() + window_s
    while who.alive() and last is not None:
        states.add(last.state)
        if time.monotonic() >= deadline:
            break
        time.sleep(SAMPLE_S)
        last = procfs.read_stat(pid)
    used = last.cpu_s - first.cpu_s if who.alive() and first and last else 0.0
    return {"alive": who.alive(), "states": "".join(sorted(states)), "cpu_s": round(used, 4)}


def cpu_share(processes: list[list[int]], window_s: float, cores: Sequence[int] = ()) -> dict[str, Any]:
    """CPU time that processes ([pid, start_ticks] each) got over `window_s`, in cores; and how many of them live.

    `idle_ratio` is the part of the time that `cores` had nothing to do, 0 without any.
    """
    who = [Identity(pid, ticks) for pid, ticks in processes]
    before, idle, began = _cpu_s(who), procfs.idle_s(cores), time.monotonic()
    time.sleep(window_s)
    seconds = time.monotonic() - began
    unused = (procfs.idle_s(cores) - idle) / (seconds * max(1, len(cores)))
    alive = sum(one.alive() for one in who)
    return {"cores_ratio": round((_cpu_s(who) - before) / seconds, 4), "alive_count": alive, "idle_ratio": round(unused, 4)}


def address_space(pid: int, start_ticks: int) -> dict[str, Any]:
    """Size and limit (as the kernel prints them) of a process's address space, in bytes; limit -1 = unlimited."""
    if not Identity(pid, start_ticks).alive():
        return {"alive": False}
    limit = procfs.address_space_limit_bytes(pid)
    return {"alive": True, "vm_size_bytes": procfs.vm_size_bytes(pid), "limit_bytes": -1 if limit is None else limit}


def link_rate(
    host: str, src: str, dst: str, port: int, wait_s: float, window_s: float, *, answers: bool = False
) -> dict[str, Any]:
    """Bytes a second on a link's TCP connections, by the kernel's own per-connection counters (`tcpcount.rate`)."""
    from injection import namespace, tcpcount  # netlink: loaded only where it is needed

    return namespace.within(host, lambda: tcpcount.rate(src, dst, port, wait_s, window_s, answers=answers))


def request_rate(dst: str, port: int, least_bytes: float, enough_bytes_per_s: float, wait_s: float) -> dict[str, Any]:
    """Bytes a second at which requests through a proxy get their answer (`tcpcount.request_rate`)."""
    from injection import tcpcount

    return tcpcount.request_rate(dst, port, least_bytes, enough_bytes_per_s, wait_s)


def link_wait(dst: str, port: int, enough_s: float, wait_s: float) -> dict[str, Any]:
    """The longest wait for an answer seen on connections dialled to a proxy (`tcpcount.longest_wait`)."""
    from injection import tcpcount

    return tcpcount.longest_wait(dst, port, enough_s, wait_s)


def link_survivors(dst: str, port: int, age_s: float, wait_s: float) -> dict[str, Any]:
    """Which connections to a proxy outlive `age_s` (`tcpcount.survivors`)."""
    from injection import tcpcount

    return tcpcount.survivors(dst, port, age_s, wait_s)


def host_queue(host: str, device: str = "eth0") -> dict[str, Any]:
    """The sending side of a virtual host: kind of the root queue, its classes, and bytes that they let through."""
    from injection import namespace, tcpcount

    if not namespace.exists(host):
        return {"host_exists": False, "root_kind": "none", "classes": ""}
    return {"host_exists": True, **namespace.within(host, lambda: tcpcount.sending_queue(device))}


def link_echo(path: dict[str, Any], backward: bool, count: int, gap_s: float, wait_s: float) -> dict[str, Any]:
    """What becomes of numbered datagrams sent along a link, or back (`echo.one_way`, `echo.summary`)."""
    from injection import echo

    return echo.summary(echo.one_way(echo.Path(**path), backward, count, gap_s, wait_s))


def link_dial(path: dict[str, Any], wait_s: float) -> dict[str, Any]:
    """What becomes of a connection dialled along a link (`echo.dial`), and how many of it stand open there."""
    from injection import echo, namespace, tcpcount

    outcome = echo.dial(echo.Path(**path), wait_s)
    standing = namespace.within(path["src_host"], lambda: tcpcount.standing(path["src"], path["dst"], path["port"]))
    return {"outcome": outcome, "standing_count": standing}


def device(host: str, name: str) -> dict[str, Any]:
    """Whether a network has a device of that name."""
    from injection import namespace

    stands = namespace.exists(host) and namespace.within(host, lambda: name in [known for _, known in socket.if_nameindex()])
    return {"stands": stands}


def packet_rules(process: list[int], table: str, hosts: list[str]) -> dict[str, Any]:
    """Whether the process that owns packet rules lives, and in how many networks its table stands."""
    from injection import namespace, netfilter

    networks = [host for host in hosts if namespace.exists(host)]
    standing = sum(namespace.within(host, lambda: netfilter.stands(table)) for host in networks)
    return {"process_alive": Identity(*process).alive(), "tables_count": standing}


def lookup(host: str, name: str) -> dict[str, Any]:
    """What the resolver of a virtual host says about a name (`measure_names.lookup`)."""
    from injection import measure_names

    return measure_names.lookup(host, name)


def resolver_address(host: str) -> dict[str, Any]:
    """The address that the resolver of a virtual host asks from (`measure_names.resolver_address`)."""
    from injection import measure_names

    return measure_names.resolver_address(host)


MEASUREMENTS: dict[str, Callable[..., dict[str, Any]]] = {
    "process_state": process_state,
    "cpu_share": cpu_share,
    "address_space": address_space,
    "machine_memory": machine_memory,
    "memory_group": memory_group,
    "device_memory": device_memory,
    "disk_space": disk_space,
    "disk_write": disk_write,
    "disk_again": disk_again,
    "write_rate": write_rate,
    "file_bytes": file_bytes,
    "lookup": lookup,
    "resolver_address": resolver_address,
    "link_rate": link_rate,
    "request_rate": request_rate,
    "link_wait": link_wait,
    "link_survivors": link_survivors,
    "link_echo": link_echo,
    "link_dial": link_dial,
    "device": device,
    "packet_rules": packet_rules,
    "host_queue": host_queue,
}


def ask_here(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Make a measurement in this process (the watchdog does: it is not the one that applied the fault)."""
    return MEASUREMENTS[name](**arguments)


def _cpu_s(processes: list[Identity]) -> float:
    return sum(procfs.thread_cpu_s(one.pid) for one in processes if one.alive())
