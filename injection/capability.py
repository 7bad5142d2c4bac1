"""Which means does what where, as data: fault kind x place -> backend, or the reason why not."""

from __future__ import annotations

from storage.records import FaultKind

VIRTUAL_CLUSTER = "virtual-cluster"
PLAIN_HOST = "plain-host"

#: How a kind is done in a place. Kinds that act on a process need nothing but the right to signal it.
BACKENDS: dict[tuple[FaultKind, str], str] = {
    **{(kind, place): "none" for kind in (FaultKind.NOOP,) for place in (VIRTUAL_CLUSTER, PLAIN_HOST)},
    **{
        (kind, place): "process"
        for kind in (FaultKind.PROCESS_KILL, FaultKind.PROCESS_PAUSE, FaultKind.CPU_CONTENTION, FaultKind.MEMORY_PRESSURE)
        for place in (VIRTUAL_CLUSTER, PLAIN_HOST)
    },
    (FaultKind.NETWORK_BANDWIDTH, VIRTUAL_CLUSTER): "kernel",
    (FaultKind.NETWORK_BANDWIDTH, PLAIN_HOST): "proxy",
    (FaultKind.NETWORK_DELAY, PLAIN_HOST): "proxy",
    (FaultKind.NETWORK_RESET, PLAIN_HOST): "proxy",
}

REFUSALS: dict[tuple[FaultKind, str], str] = {
    (
        FaultKind.NETWORK_DELAY,
        VIRTUAL_CLUSTER,
    ): "many kernels lack netem, a packet-queue backend is not built, and no proxy stands there",
    (FaultKind.NETWORK_RESET, VIRTUAL_CLUSTER): "a kernel backend for it is not built, and no proxy stands there",
}


class NotCapableError(ValueError):
    """The place cannot do this kind of fault; the message says why and where it can be done."""


def capability(kind: str, place_kind: str) -> str:
    """The backend of a fault kind in a place. Raises NotCapableError with one sentence where there is none."""
    if place_kind not in (VIRTUAL_CLUSTER, PLAIN_HOST):
        raise NotCapableError(f"unknown place {place_kind!r}; allowed: {VIRTUAL_CLUSTER}, {PLAIN_HOST}")
    backend = BACKENDS.get((FaultKind(kind), place_kind))
    if backend is not None:
        return backend
    able = [place for (known, place) in BACKENDS if known == kind]
    reason = REFUSALS[FaultKind(kind), place_kind]
    raise NotCapableError(f"{kind} cannot be done in the {place_kind}: {reason}; it can be done in: {', '.join(able)}")
