"""Map live processes to components and faults, for the experimenter: process names themselves tell nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from injection.procfs import read_stat
from storage.catalogue import list_runs
from storage.layout import run_paths
from storage.records import Registration
from tasks.show import faults_by_component


def process_rows() -> list[dict[str, Any]]:
    """A row for each process of each run that is under way: run, component, host, pid here and inside, state, faults.

    ``pid`` is 0 when the process is gone.
    """
    rows = []
    for run in list_runs():
        if run.state != "running":
            continue
        registry, faults = run_paths(run.run_id).registry, faults_by_component(run.run_id)
        for path in sorted(registry.glob("*.json")):
            row = _row(path)
            rows.append({"run_id": run.run_id, **row, "faults": faults.get(row["component"], "")})
    return rows


def _row(path: Path) -> dict[str, Any]:
    who = Registration(**json.loads(path.read_text()))
    pid = pid_here(who.pid, who.start_ticks)
    stat = read_stat(pid) if pid else None
    return {
        "component": who.component,
        "host": who.host,
        "pid": pid,
        "pid_inside": who.pid,
        "state": stat.state if stat else "gone",
    }


def pid_here(pid_inside: int, start_ticks: int) -> int:
    """Our pid of a process that knows itself by ``pid_inside`` in its own PID namespace; 0 when there is none.

    The start time counts from the machine's boot in every namespace, so both together name one process.
    """
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        stat = read_stat(int(entry.name))
        if stat and stat.start_ticks == start_ticks and _innermost_pid(entry) == pid_inside:
            return int(entry.name)
    return 0


def _innermost_pid(entry: Path) -> int:
    try:
        for line in (entry / "status").read_text().splitlines():
            if line.startswith("NSpid:"):
                return int(line.split()[-1])
    except OSError:  # it ended meanwhile
        pass
    return 0
