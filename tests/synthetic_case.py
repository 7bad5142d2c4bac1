"""Sealed synthetic runs with metrics and healthy runs beside them: what a case of a real run looks like, in milliseconds."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from storage.layout import RunPaths
from storage.schemas import METRICS
from storage.truth import load_plan
from storage.writer import TableWriter
from tasks.seal import seal_run
from tests.synthetic_job import ROLES, make_run

#: 2026-10-10 12:00:00 UTC, the first second of the synthetic run.
BEGUN_S = 1_791_633_600.0


def row(component: str, metric: str, at_s: float, value: float | None, step: int = -1, stage: str = "") -> dict[str, Any]:
    """A row of the metrics table, ``at_s`` seconds after the run's beginning."""
    told = {"metric": metric, "unit": "x", "step": step, "stage": stage}
    return {"wall_s": BEGUN_S + at_s, "mono_s": at_s, "host": "trainers", "component": component, "value": value, **told}


def healthy_rows(seed: int = 0) -> list[dict[str, Any]]:
    """Twenty seconds of every component's share of a core, at 2 Hz, with a little noise."""
    noise = random.Random(seed)
    names = [*ROLES, "trainers", "machine"]
    return [row(name, "cpu_ratio", tick / 2, round(0.5 + noise.random() / 10, 3)) for name in names for tick in range(40)]


def with_metrics(paths: RunPaths, rows: Iterable[dict[str, Any]]) -> RunPaths:
    """The run with these rows in its metrics table."""
    with TableWriter(paths.table("metrics"), METRICS, flush_s=3600, writer="sampler") as table:
        table.append([tuple(one[name] for name in METRICS.names) for one in rows])
    return paths


def seal_with_metrics(folder: Path, kind: str = "network-bandwidth", healthy: int = 1, **lines: str) -> RunPaths:
    """A sealed run, and in the same home ``healthy`` control runs of other seeds, which come along in its case."""
    for number in range(healthy):
        end_well(with_metrics(make_run(folder, "noop"), healthy_rows(number)), 100 + number)
    paths = with_metrics(make_run(folder, kind, **lines), healthy_rows(99))
    end_well(paths, 17)
    seal_run(paths)
    return paths


def end_well(paths: RunPaths, seed: int) -> None:
    """Give a run a job of one step, all of which is done, and its own seed."""
    paths.plan.write_text(json.dumps(load_plan(paths) | {"seed": seed, "job": {"steps": 1, "seed": seed}}))
    done = {"what": "event", "component": "controller", "step": 0, "stage": "train", "phase": "exit", "attrs": {}}
    with paths.history.open("a") as history:
        history.write(json.dumps({**done, "fault_id": "", "wall_s": BEGUN_S + 5, "mono_s": 5.0}) + "\n")
