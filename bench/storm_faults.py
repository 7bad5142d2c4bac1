"""What the kill storm has in force: for every kind that a place can do, parameters and targets, drawn from a seed."""

from __future__ import annotations

import random
from typing import Any

from injection.capability import BACKENDS, lack
from injection.measure_memory import available_memory
from injection.memory.pressure import MIB
from injection.registry import FAULTS, ON_DISK, TARGETS
from storage.records import FaultKind

#: How much of the machine's memory the machine-wide pressure takes, MiB: enough to be seen, too little to hurt.
MACHINE_MIB = 64
#: The stand-in that may be killed by a fault, and those that must come out of a round as they went in.
MORTAL = "train0"
LASTING = ("train1", "rollout0", "rollout1")
LINKS = (("train0", "metaserver", "weights"), ("train1", "metaserver", "weights"))
DISK, FILE = "recover", "recover/model.pt"
POINT = {"step": 3, "stage": "train", "when": "enter", "after_s": 0.0}
ENDS: tuple[dict[str, Any], ...] = ({"when": "end"}, {"when": "exit", "stage": "train", "steps_later": 0}, {"after_s": 0.3})

#: Kind -> ways it is tried, wherever a backend can do it so.
WAYS: dict[str, list[dict[str, Any]]] = {
    "noop": [{}],
    "process-kill": [{}],
    "process-pause": [{}],
    "cpu-contention": [{"share_percent": 20.0}],
    "memory-pressure": [
        {"headroom_mib": 512.0},
        {"headroom_mib": 200.0, "where": "group", "ballast_mib": 8.0},
        {"headroom_mib": 1.0, "where": "device"},
        {"headroom_mib": 0.0, "where": "machine"},  # what is available is seen when it is drawn
    ],
    "disk-fill": [{"percent": 80.0}],
    "io-contention": [
        {"how": "hang"},
        {"how": "throttle", "bytes_per_s": 1e6},
        {"how": "contend", "bytes_per_s": 2e5},
    ],
    "file-corruption": [{"how": "truncate"}, {"how": "flip", "size_bytes": 9}, {"how": "torn"}],
    "dns-failure": [{"how": "nxdomain"}, {"how": "timeout"}],
    "network-delay": [
        {"delay_ms": 40.0},
        {"delay_ms": 40.0, "jitter_ms": 5.0, "correlation_ratio": 0.5, "distribution": "normal", "direction": "both"},
    ],
    "network-loss": [{"loss_ratio": 0.2}, {"loss_ratio": 0.2, "burst_packets": 5.0, "direction": "backward"}],
    "network-partition": [{}],
    "network-reset": [{}],
    "network-bandwidth": [{"rate_bytes_per_s": 100_000.0}, {"rate_bytes_per_s": 100_000.0, "direction": "both"}],
}


def ways(place: str) -> list[tuple[FaultKind, dict[str, Any]]]:
    """All that the capability table declares for a place, each kind with each of its parameters that a backend can do."""
    return [
        (kind, params)
        for kind in FAULTS
        for params in WAYS[kind]
        if any(not lack(kind, backend, params) for backend in BACKENDS.get((kind, place), ()))
    ]


def draw(place: str, count: int, dice: random.Random) -> list[dict[str, Any]]:
    """That many different faults of a plan, all at one point, each with an end of its own."""
    drawn = dice.sample(ways(place), count)
    return [_entry(f"f{number}", kind, params, dice) for number, (kind, params) in enumerate(drawn, start=1)]


def _entry(name: str, kind: FaultKind, params: dict[str, Any], dice: random.Random) -> dict[str, Any]:
    if params.get("where") == "machine":
        left = available_memory()["available_bytes"] // MIB - MACHINE_MIB
        params = {**params, "headroom_mib": float(left)}
    until, target = dice.choice(ENDS), _target(kind, dice)
    return {"id": name, "kind": str(kind), "params": params, "target": target, "trigger": POINT, "until": until}


def _target(kind: FaultKind, dice: random.Random) -> dict[str, Any]:
    if TARGETS[kind] == ("link",):
        src, dst, purpose = dice.choice(LINKS)
        return {"type": "link", "src": src, "dst": dst, "purpose": purpose}
    if TARGETS[kind] == ("path",):
        return {"type": "path", "component": LASTING[0], "path": DISK if kind in ON_DISK else FILE}
    return {"type": "process", "component": MORTAL if kind == FaultKind.PROCESS_KILL else dice.choice(LASTING)}
