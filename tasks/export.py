"""Write revealed runs as cases of RCAEval's layout, so that its loader and methods can be used on them as they are.

The folder of a case is named after its label, so only a run whose label has been published is written. RCAEval's clock is
whole seconds and its windows count rows; our samples are four a second and a run is half a minute. So a row is a sample: one
second of the exported clock is the distance of two samples (``row_s`` in ``case.json``), for metrics, logs and the moment of
injection alike. Times are told from the first step to the job's ending.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from diagnosis.services import Column, Grid, Series, every_metric, row_length, service_table
from report.case import Case
from storage import truth
from storage.layout import RunPaths
from storage.records import FaultKind
from tasks.answers import is_revealed
from tasks.outcome import open_case, rows_of

#: The fault tokens that RCAEval's totals know, and what of ours comes under each. A stopped process is told by its share of
#: a core, one that was killed by its sockets; names that are not found are requests that are lost.
TOKENS: dict[str, str] = {
    FaultKind.CPU_CONTENTION: "cpu",
    FaultKind.PROCESS_PAUSE: "cpu",
    FaultKind.MEMORY_PRESSURE: "mem",
    FaultKind.DISK_FILL: "disk",
    FaultKind.IO_CONTENTION: "disk",
    FaultKind.FILE_CORRUPTION: "disk",
    FaultKind.NETWORK_DELAY: "delay",
    FaultKind.NETWORK_BANDWIDTH: "delay",
    FaultKind.NETWORK_LOSS: "loss",
    FaultKind.DNS_FAILURE: "loss",
    FaultKind.NETWORK_PARTITION: "socket",
    FaultKind.NETWORK_RESET: "socket",
    FaultKind.PROCESS_KILL: "socket",
}
#: Rows of logts.csv are of so many seconds of the exported clock, as in RCAEval's own sets.
LOG_BIN = 15
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


@dataclass(frozen=True)
class _Clock(Grid):
    """Rows, and the exported clock by which each lasts a second."""

    @property
    def first(self) -> int:
        """The first row's second."""
        return int(self.begun_s)

    def at(self, wall_s: float) -> float:
        """A moment on the exported clock, from seconds since the epoch."""
        return self.first + (wall_s - self.begun_s) / self.row_s


def export_rcaeval(paths: RunPaths, folder: Path) -> dict[str, Any]:
    """Write ``folder/<service>_<fault>/<n>/`` and return ``{"run_id", "case", "rows", "columns", "inject_time"}``.

    Raises ValueError for a run that is not revealed, is without truth or metrics, or in which nothing was done, and
    FileExistsError for one that is there already.
    """
    if not is_revealed(paths):
        raise ValueError(f"run {paths.run_id} is not revealed, and its folder's name would tell the label (faultline reveal)")
    found, root = _opened(paths)
    rows = [row for row in rows_of(paths, "metrics", []) if row["value"] is not None and isfinite(row["value"])]
    services = sorted({str(json.loads(path.read_bytes())["component"]) for path in paths.registry.glob("*.json")})
    series = _series(rows)
    clock = _clock(found, series)
    figures = service_table(series, services, clock)
    inject_time = int(clock.at(root["wall_s"]))
    told = {"run_id": paths.run_id, "rows": clock.rows, "columns": len(figures), "inject_time": inject_time}
    case = {**told, "row_s": clock.row_s, "begun_s": clock.begun_s, **root}
    target = _place(folder / f"{root['component']}_{TOKENS[root['kind']]}", paths.run_id)
    with _appearing(target) as building:
        _write_metrics(building, clock, figures, every_metric(series, services, clock))
        _write_logs(building, clock, found.logs)
        (building / "inject_time.txt").write_text(f"{inject_time}\n")
        (building / "case.json").write_text(json.dumps(case, indent=1) + "\n")
    return {**told, "case": str(target)}


def _opened(paths: RunPaths) -> tuple[Case, dict[str, Any]]:
    """The run's own side, and of its first fault: component, peer, kind, stage, step, and when it took hold."""
    try:
        label, found = truth.load_label(paths), open_case(paths, tables=("logs",))
    except OSError as error:
        raise ValueError(f"run {paths.run_id} has no truth here ({error.strerror}): only its owner can export it") from error
    root = found.outcome["root"]
    if not label.fault or root is None:
        raise ValueError(f"run {paths.run_id} is one in which nothing was done; RCAEval knows no such case")
    if root["wall_s"] is None:
        raise ValueError(f"run {paths.run_id} does not tell when its fault took hold")
    applied = next(line for line in found.history if line["what"] == "applied" and line["mono_s"] == root["mono_s"])
    kind = next(fault["kind"] for fault in found.plan["faults"] if fault["id"] == applied["fault_id"])
    where = {"component": label.component, "peer": label.peer, "stage": label.stage, "step": label.step}
    return found, {**where, "kind": kind, "kinds": list(label.kinds), "wall_s": root["wall_s"]}


def _clock(found: Case, series: Series) -> _Clock:
    """From the first stage after init to the job's ending, or to the last sample."""
    try:
        row_s = row_length(series)
    except ValueError as error:
        raise ValueError(f"run {found.run_id} has no metrics to export: {error}") from error
    last_s = max(sample[0] for subjects in series.values() for samples in subjects.values() for sample in samples)
    told = [line for line in found.history if line["what"] == "event" and line["phase"] in ("enter", "exit")]
    begun_s = min((line["wall_s"] for line in told if line["stage"] != "init"), default=0.0)
    ended = [line["wall_s"] for line in told if line["stage"] == "cleanup"]
    return _Clock(begun_s, min([*ended, last_s + row_s]), row_s)


def _series(rows: Iterable[dict[str, Any]]) -> Series:
    found: dict[str, dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        found[row["metric"]][row["component"]].append((row["wall_s"], row["value"]))
    return {metric: {name: sorted(samples) for name, samples in subjects.items()} for metric, subjects in found.items()}


def _place(cases: Path, run_id: str) -> Path:
    """The next free number below a label's folder."""
    numbers = [int(path.name) for path in cases.glob("*") if path.name.isdigit()]
    for number in numbers:
        there = cases / str(number) / "case.json"
        if there.is_file() and json.loads(there.read_bytes())["run_id"] == run_id:
            raise FileExistsError(f"run {run_id} is there already: {there.parent}")
    return cases / str(max(numbers, default=0) + 1)


@contextmanager
def _appearing(target: Path) -> Iterator[Path]:
    """A hidden folder that takes its place when all of it is written."""
    building = target.with_name(f".{target.name}.building")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    yield building
    building.rename(target)


def _write_metrics(case: Path, clock: _Clock, figures: dict[str, Column], whole: dict[str, Column]) -> None:
    """``simple_metrics.csv`` has the figures that the scorer knows, ``metrics.json`` those and every single metric."""
    with (case / "simple_metrics.csv").open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["time", *figures])
        for row, values in enumerate(zip(*figures.values(), strict=True)):
            lines.writerow([clock.first + row, *("" if value is None else value for value in values)])
    told = {
        name: [[clock.first + row, value] for row, value in enumerate(column) if value is not None]
        for name, column in (figures | whole).items()
    }
    (case / "metrics.json").write_text(json.dumps(told, allow_nan=False) + "\n")


def _write_logs(case: Path, clock: _Clock, rows: Sequence[dict[str, Any]]) -> None:
    """``logs.csv`` line by line, ``logts.csv`` how many of each level a service wrote in each interval."""
    counts: dict[int, Counter[str]] = defaultdict(Counter)
    with (case / "logs.csv").open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["timestamp", "container_name", "level", "message"])
        kept = [row for row in rows if row["wall_s"] is not None and clock.begun_s <= row["wall_s"] < clock.end_s]
        for row in sorted(kept, key=lambda one: (one["wall_s"], one["component"], one["line"])):
            at = clock.at(row["wall_s"])
            lines.writerow([f"{at:.3f}", row["component"], row["level"], row["message"]])
            if row["level"] in LEVELS:
                counts[int(at - clock.first) // LOG_BIN][f"{row['component']}_log-{row['level'].lower()}"] += 1
    names = sorted({name for count in counts.values() for name in count})
    with (case / "logts.csv").open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["time", *names])
        for number in range(max(counts, default=-1) + 1):
            lines.writerow([clock.first + number * LOG_BIN, *(counts[number][name] for name in names)])
