"""Show a run that is under way: drawn anew in place, as a line for each change, or as an object for each."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict

import click
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tasks.live import KILLED, Sight, Watch

POLL_S = 0.5
MIB = 1 << 20


def in_place(watch: Watch) -> Sight:
    """Redraw until the run is over; returns the last sight, which stays on the terminal."""
    with Live(console=Console(highlight=False), auto_refresh=False, vertical_overflow="crop") as live:
        for sight in sights(watch):
            live.update(drawn(sight), refresh=True)
    return sight


def as_lines(watch: Watch) -> Sight:
    """Print a line for each change until the run is over."""
    before = None
    for sight in sights(watch):
        for line in changes(before, sight):
            click.echo(f"[{_clock(sight.since_start_s)}] {line}")
        before = sight
    return sight


def as_objects(watch: Watch) -> Sight:
    """Print each sight that differs from the one before in more than the time, as one line of JSON."""
    before: dict[str, object] = {}
    for sight in sights(watch):
        now = asdict(sight)
        if now | {"since_start_s": 0} != before | {"since_start_s": 0}:
            click.echo(json.dumps(now))
        before = now
    return sight


def sights(watch: Watch) -> Iterator[Sight]:
    """A look every `POLL_S` seconds, the last one of a run that is over."""
    while True:
        sight = watch.look(time.time())
        yield sight
        if sight.over:
            return
        time.sleep(POLL_S)


def changes(before: Sight | None, now: Sight) -> list[str]:
    """What is new, a line each. Workers that run or sleep are well; only coming, ending and halting are told."""
    told = [] if before else [f"{now.run_id}: {now.scenario} / {now.arm}, {now.steps} steps"]
    if not before or (before.step, before.stage) != (now.step, now.stage):
        told.append(place_of(now))
    known = {worker.component: _health(worker.state) for worker in before.workers} if before else {}
    told += [
        f"{worker.component}: {_health(worker.state)}"
        for worker in now.workers
        if known.get(worker.component) != _health(worker.state)
    ]
    faults = {fault.fault_id: fault for fault in before.faults} if before else {}
    told += [
        f"fault {fault.fault_id} ({fault.kind} on {fault.target}): {fault.state}"
        for fault in now.faults
        if faults.get(fault.fault_id) != fault
    ]
    if now.error and (not before or before.error != now.error):
        told.append(f"error of {now.error}")
    return [*told, ending(now)] if now.over else told


def drawn(sight: Sight) -> Group:
    """The whole sight for a terminal."""
    title = f"{sight.run_id}  {sight.scenario} / {sight.arm}  [{_clock(sight.since_start_s)}]"
    workers = Table("worker", "state", "step", "stage", "cores", "MiB", box=None, pad_edge=False, header_style="bold")
    for one in sight.workers:
        cores = "" if one.cpu_cores is None else f"{one.cpu_cores:.2f}"
        memory = "" if one.rss_bytes is None else f"{one.rss_bytes / MIB:.0f}"
        step = "" if one.step is None or one.step < 0 else str(one.step)
        colour = "" if _health(one.state) == "runs" else "red"
        workers.add_row(one.component, Text(one.state, style=colour), step, one.stage, cores, memory)
    faults = [Text(f"fault {one.fault_id}: {one.kind} on {one.target}: {one.state}") for one in sight.faults]
    error = [Text(f"last error: {sight.error}", style="red")] if sight.error else []
    last = [Text(ending(sight), style="bold")] if sight.over else []
    return Group(Text(title, style="bold"), Text(place_of(sight)), "", workers, "", *faults, *error, *last)


def place_of(sight: Sight) -> str:
    """Where the job is, in words: steps count from 0, as in its logs."""
    return f"step {sight.step} of {sight.steps}: {sight.stage}" if sight.step >= 0 else sight.stage


def ending(sight: Sight) -> str:
    """How a run that is over ended, and what a person may want to do."""
    if sight.state == KILLED:
        return "killed: the process that carried it is gone; faultline recover undoes what it left"
    return f"{sight.state}: faultline show {sight.run_id}"


def _health(state: str) -> str:
    """Running and sleeping take turns all the time: both are `runs`."""
    return "runs" if state in ("running", "sleeping", "waiting for the disk", "registered") else state


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60:02d}:{int(seconds) % 60:02d}"
