"""Asked and achieved: shares of a core, memory of a group, of the machine and of a device; and how long an act takes.

    python bench/pressure.py [WINDOWS]

A share is measured over WINDOWS windows of a second, beside a victim that wants the whole core, by the kernel's book of CPU
time. Memory is measured once an act, three acts each, by the kernel's books of the group, of nameless files and of locks.
`apply` is timed over acts that are undone one after the other. Prints tables in Markdown.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from injection import procfs
from injection.faults.cpu_contention import CpuContention
from injection.faults.cpu_contention import Params as Share
from injection.measure import ask_here
from injection.measure_memory import available_memory
from injection.memory.pressure import MIB
from injection.registry import FAULTS, make_fault
from storage.records import FaultKind
from tests.injection.victim import Victim

SHARES = (5, 20, 50, 80, 95)
ACTS = 20
SETTLE_S = 0.5


def shares(windows: int) -> None:
    """Asked share, achieved share, and what is left to a victim that wants everything."""
    print(
        "| share asked, % | achieved: mean | worst window off by, points | left to the target, % |\n| --- | --- | --- | --- |"
    )
    for asked in SHARES:
        victim = Victim()
        procfs.pin(victim.who, max(os.sched_getaffinity(0)))
        fault = CpuContention(victim.context(), Share(asked))
        fault.arm()
        fault.apply()
        time.sleep(SETTLE_S)
        undo, before, began = fault.undo(), procfs.read_stat(victim.who.pid).cpu_s, time.monotonic()
        found = [100 * ask_here("cpu_share", {**undo, "window_s": 1.0})["cores_ratio"] for _ in range(windows)]
        left = 100 * (procfs.read_stat(victim.who.pid).cpu_s - before) / (time.monotonic() - began)
        fault.revert(undo)
        victim.close()
        off = max(abs(one - asked) for one in found)
        print(f"| {asked} | {statistics.mean(found):.2f} | {off:.2f} | {left:.1f} |", flush=True)


def memories(job: Path) -> None:
    """Asked and held bytes of each way that holds memory."""
    left = available_memory()["available_bytes"] // MIB - 1024
    ways: list[tuple[str, dict[str, Any], int]] = [
        ("group", {"where": "group", "headroom_mib": 200, "ballast_mib": 16}, 16 * MIB),
        ("group", {"where": "group", "headroom_mib": 200, "ballast_mib": 256}, 256 * MIB),
        ("machine", {"where": "machine", "headroom_mib": left}, 0),
        ("device", {"where": "device", "headroom_mib": 16}, 48 * MIB),
    ]
    print("\n| memory | asked, MiB | held, MiB (three acts) | off by at most, % |\n| --- | --- | --- | --- |")
    for name, params, asked in ways:
        held = []
        for _ in range(3):
            victim = Victim()
            fault = make_fault("memory-pressure", params, replace(victim.context(), job=job))
            fault.arm()
            undo = fault.undo()
            readback = fault.apply()
            asked = asked or readback["wanted_bytes"]
            wanted = readback.get("wanted_bytes", asked)
            held.append((fault.verify().measured["held_bytes"], wanted))
            FAULTS[FaultKind.MEMORY_PRESSURE].revert(undo)
            victim.close()
        off = max(abs(one - wanted) / wanted for one, wanted in held)
        told = ", ".join(f"{one / MIB:.1f}" for one, _ in held)
        print(f"| {name} | {held[0][1] / MIB:.1f} | {told} | {100 * off:.2f} |", flush=True)


def acts(job: Path) -> None:
    """How long `apply` takes."""
    ways: dict[str, tuple[str, dict[str, Any]]] = {
        "process-pause": ("process-pause", {}),
        "cpu-contention, 50 %": ("cpu-contention", {"share_percent": 50}),
        "memory-pressure, process": ("memory-pressure", {"headroom_mib": 64}),
        "memory-pressure, group": ("memory-pressure", {"where": "group", "headroom_mib": 64}),
        "memory-pressure, device": ("memory-pressure", {"where": "device", "headroom_mib": 16}),
    }
    print(f"\n| act | apply, ms: median of {ACTS} | worst |\n| --- | --- | --- |")
    victim = Victim()
    for name, (kind, params) in ways.items():
        took = []
        for _ in range(ACTS):
            fault = make_fault(kind, params, replace(victim.context(), job=job))
            fault.arm()
            undo = fault.undo()
            began = time.monotonic()
            fault.apply()
            took.append(1000 * (time.monotonic() - began))
            FAULTS[FaultKind(kind)].revert(undo)
        print(f"| {name} | {statistics.median(took):.2f} | {max(took):.2f} |", flush=True)
    victim.close()


def main() -> None:
    """All tables."""
    with tempfile.TemporaryDirectory() as folder:
        job = Path(folder)
        (job / "arena").mkdir()
        (job / "config.json").write_text(json.dumps({"device": "cpu", "colocated": True, "arena_path": ""}))
        with (job / "arena" / "node1").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, 64 * MIB)
        shares(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
        memories(job)
        acts(job)


if __name__ == "__main__":
    main()
