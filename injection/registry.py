"""Every fault kind and its class, one line each. A new fault is one file in `injection/faults/` and one line here."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Literal, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from injection.fault import Context, Fault
from injection.faults.cpu_contention import CpuContention
from injection.faults.disk_fill import DiskFill
from injection.faults.dns_failure import DnsFailure
from injection.faults.file_corruption import FileCorruption
from injection.faults.io_contention import IoContention
from injection.faults.memory_pressure import MemoryPressure
from injection.faults.network_bandwidth import NetworkBandwidth
from injection.faults.network_delay import NetworkDelay
from injection.faults.network_loss import NetworkLoss
from injection.faults.network_partition import NetworkPartition
from injection.faults.network_reset import NetworkReset
from injection.faults.noop import Noop
from injection.faults.process_kill import ProcessKill
from injection.faults.process_pause import ProcessPause
from storage.records import FaultKind

FAULTS: dict[FaultKind, Any] = {
    FaultKind.NOOP: Noop,
    FaultKind.PROCESS_KILL: ProcessKill,
    FaultKind.PROCESS_PAUSE: ProcessPause,
    FaultKind.CPU_CONTENTION: CpuContention,
    FaultKind.MEMORY_PRESSURE: MemoryPressure,
    FaultKind.DISK_FILL: DiskFill,
    FaultKind.IO_CONTENTION: IoContention,
    FaultKind.FILE_CORRUPTION: FileCorruption,
    FaultKind.DNS_FAILURE: DnsFailure,
    FaultKind.NETWORK_BANDWIDTH: NetworkBandwidth,
    FaultKind.NETWORK_DELAY: NetworkDelay,
    FaultKind.NETWORK_LOSS: NetworkLoss,
    FaultKind.NETWORK_PARTITION: NetworkPartition,
    FaultKind.NETWORK_RESET: NetworkReset,
}

#: What a kind acts on. A noop takes any, for it stands in for every kind.
TARGETS: dict[FaultKind, tuple[str, ...]] = {
    FaultKind.NOOP: ("process", "link", "path"),
    FaultKind.PROCESS_KILL: ("process",),
    FaultKind.PROCESS_PAUSE: ("process",),
    FaultKind.CPU_CONTENTION: ("process",),
    FaultKind.MEMORY_PRESSURE: ("process",),
    FaultKind.DISK_FILL: ("path",),
    FaultKind.IO_CONTENTION: ("path",),
    FaultKind.FILE_CORRUPTION: ("path",),
    FaultKind.DNS_FAILURE: ("link",),
    FaultKind.NETWORK_BANDWIDTH: ("link",),
    FaultKind.NETWORK_DELAY: ("link",),
    FaultKind.NETWORK_LOSS: ("link",),
    FaultKind.NETWORK_PARTITION: ("link",),
    FaultKind.NETWORK_RESET: ("link",),
}


#: What others may be waiting for, their undoing included (nobody who writes to a frozen disk can be stopped): undone first.
UNDONE_FIRST = frozenset({FaultKind.IO_CONTENTION})
#: What acts on a disk, and on none but the lab's own.
ON_DISK = frozenset({FaultKind.DISK_FILL, FaultKind.IO_CONTENTION})
#: What needs links that are dialled by host name.
BY_NAME = frozenset({FaultKind.DNS_FAILURE})


def parameter_problem(kind: str, params: dict[str, Any]) -> str:
    """What is wrong with parameters (numbers, in the units of their names), as one clause; empty = nothing."""
    try:
        _parameters(kind, params)
    except ValidationError as error:
        first = error.errors()[0]
        return f"{first['loc'][0] if first['loc'] else kind}: {first['msg'].lower()} (got {first['input']!r})"
    except ValueError as error:
        return str(error)
    return ""


def worded(kind: str) -> set[str]:
    """The parameters of a kind that take a word, and not a number."""
    known = FAULTS[FaultKind(kind)].parameters
    return {name for name, type_ in get_type_hints(known).items() if get_origin(type_) is Literal or type_ is str}


def make_fault(kind: str, params: dict[str, Any], ctx: Context) -> Fault:
    """The fault of a plan, ready to arm. Raises ValueError for bad parameters, RefusedError for the wrong target."""
    fault: Fault = FAULTS[FaultKind(kind)](ctx, _parameters(kind, params))
    return fault


def _parameters(kind: str, params: dict[str, Any]) -> Any:
    known = FAULTS[FaultKind(kind)].parameters
    names = [field.name for field in fields(known)]
    for name in params:
        if name not in names:  # a plain dataclass would let pydantic pass over it
            raise ValueError(f"{name}: unknown parameter of {kind}; allowed: {', '.join(names) or 'none'}")
    return TypeAdapter(known).validate_python(params)
