"""Which means does what where, as data: fault kind x place -> backends in order of preference, and what each of them lacks."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from storage.records import FaultKind

VIRTUAL_CLUSTER = "virtual-cluster"
PLAIN_HOST = "plain-host"
#: Any machine with a host agent on it: its processes, its folders and disks that were set free, links between its networks.
AGENT_HOST = "agent-host"
PLACES = (VIRTUAL_CLUSTER, PLAIN_HOST, AGENT_HOST)

#: How a kind is done in a place. Kinds that act on a process need nothing but the right to signal it.
BACKENDS: dict[tuple[FaultKind, str], tuple[str, ...]] = {
    **{(kind, place): ("none",) for kind in (FaultKind.NOOP,) for place in PLACES},
    **{
        (kind, place): ("process",)
        for kind in (FaultKind.PROCESS_KILL, FaultKind.PROCESS_PAUSE, FaultKind.CPU_CONTENTION, FaultKind.MEMORY_PRESSURE)
        for place in PLACES
    },
    **{(FaultKind.FILE_CORRUPTION, place): ("file",) for place in PLACES},
    (FaultKind.DNS_FAILURE, VIRTUAL_CLUSTER): ("resolver",),
    **{
        (kind, place): backends
        for kind, backends in (
            (FaultKind.DISK_FILL, ("disk",)),
            (FaultKind.IO_CONTENTION, ("disk",)),
            (FaultKind.NETWORK_BANDWIDTH, ("htb",)),
            (FaultKind.NETWORK_DELAY, ("netem", "nfqueue")),
            (FaultKind.NETWORK_LOSS, ("nfqueue",)),
            (FaultKind.NETWORK_PARTITION, ("nfqueue",)),
            (FaultKind.NETWORK_RESET, ("nfqueue",)),
        )
        for place in (VIRTUAL_CLUSTER, AGENT_HOST)
    },
    (FaultKind.NETWORK_BANDWIDTH, PLAIN_HOST): ("proxy",),
    (FaultKind.NETWORK_DELAY, PLAIN_HOST): ("proxy",),
    (FaultKind.NETWORK_RESET, PLAIN_HOST): ("proxy",),
}

#: Backends that hold sockets of pyroute2, which belong to the thread that made them. All others put a fault in force by a
#: signal, a limit, a compiled message or a word to somebody who waits: in whichever thread heard the announcement, which saves
#: a tenth of a millisecond.
OWN_THREAD = ("netem",)

#: Why a place has no backend for a kind.
REFUSALS: dict[tuple[FaultKind, str], str] = {
    (FaultKind.DNS_FAILURE, PLAIN_HOST): "its resolver is the machine's, which others use",
    (FaultKind.DNS_FAILURE, AGENT_HOST): "its resolver is the machine's, which others use",
    (FaultKind.DISK_FILL, PLAIN_HOST): "its disks are the machine's, which others use",
    (FaultKind.IO_CONTENTION, PLAIN_HOST): "its disks are the machine's, which others use",
    (FaultKind.NETWORK_LOSS, PLAIN_HOST): "its links are relayed by proxies, which carry bytes and have no packets to lose",
    (
        FaultKind.NETWORK_PARTITION,
        PLAIN_HOST,
    ): "its links are relayed by proxies, which answer a dialler's SYN whatever follows",
}

#: What a backend lacks of a kind: parameter -> the one value it can do, and why.
LACKS: dict[tuple[FaultKind, str], dict[str, tuple[Any, str]]] = {
    (FaultKind.NETWORK_DELAY, "proxy"): {
        "correlation_ratio": (0, "a proxy delays each piece of data for itself"),
        "distribution": ("uniform", "a proxy knows one distribution"),
        "interface": ("", "a proxy has no device"),
    },
    (FaultKind.NETWORK_BANDWIDTH, "proxy"): {"interface": ("", "a proxy has no device")},
    (FaultKind.NETWORK_DELAY, "netem"): {
        "correlation_ratio": (0, "netem averages consecutive draws, which narrows the jitter that was asked"),
        "distribution": ("uniform", "netem takes other distributions as tables, which netlink libraries do not have"),
    },
    (FaultKind.NETWORK_RESET, "nfqueue"): {"reset_after_ms": (0, "the kernel resets connections at once")},
}


class NotCapableError(ValueError):
    """The place cannot do this kind of fault; the message says why and where it can be done."""


def capability(
    kind: str, place_kind: str, params: Mapping[str, Any] | None = None, absent: Collection[str] = frozenset()
) -> str:
    """The first backend of a fault kind in a place that can do these parameters. Raises NotCapableError with one sentence.

    `absent` names backends that this machine does not have, whatever the table says.
    """
    if place_kind not in PLACES:
        raise NotCapableError(f"unknown place {place_kind!r}; allowed: {', '.join(PLACES)}")
    known = FaultKind(kind)
    if (known, place_kind) not in BACKENDS:
        able = [place for (other, place) in BACKENDS if other == kind]
        reason = REFUSALS[known, place_kind]
        raise NotCapableError(f"{kind} cannot be done in the {place_kind}: {reason}; it can be done in: {', '.join(able)}")
    reasons = []
    for backend in BACKENDS[known, place_kind]:
        reason = "this machine lacks it" if backend in absent else lack(known, backend, params or {})
        if not reason:
            return backend
        reasons.append(f"{backend}: {reason}")
    raise NotCapableError(f"{kind} cannot be done so in the {place_kind}: {'; '.join(reasons)}")


def lack(kind: FaultKind, backend: str, params: Mapping[str, Any]) -> str:
    """Why a backend cannot do a kind with these parameters; empty = it can."""
    lacking = LACKS.get((kind, backend), {})
    reasons = (f"{name}: {why}" for name, (only, why) in lacking.items() if params.get(name, only) != only)
    return "; ".join(reasons)
