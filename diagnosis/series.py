"""Metric rows of a run as evidence: neutral subjects, the case clock, one line a series; as sampled, or means over a while.

A line is ``{"subject", "metric", "unit", "t_s": [...], "value": [...]}`` with times from the case's start, and ``step`` and
``stage`` lists where the job told them. Every subject has one file, whether anything is known of it or not; links share one,
and so do the machine with its disks and devices. What belongs to no part of the job is pooled under `OTHER`.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from statistics import fmean
from typing import Any

from diagnosis.sanitise import FORBIDDEN

#: Coarse figures are means over this long; stage totals are kept one by one.
COARSE_S = 10.0
STAGE_TOTALS = "timeperf/"
OTHER = "other"
#: Subjects that are neither component, host nor link: the machine, the job's folders, its devices.
_MACHINE = re.compile(r"^(machine|job|recover|gpu\d+)$")
#: A network device of a host, `host:device`.
_DEVICE = re.compile(r"^(lo|[a-z]+\d+)$")
_LINK = re.compile(r"^(\w+)>(\w+):(\w+)$")
#: How a process is held (a limit of its own) is a trace of who holds it; what every process has tells nothing of that.
_HELD = "group_"

#: Seconds from the case's start, value (None: missed, or no finite number), training step (-1: none), stage.
Point = tuple[float, float | None, int, str]


@dataclass(frozen=True)
class Series:
    """One metric of one subject, by time."""

    subject: str
    metric: str
    unit: str
    points: tuple[Point, ...]


def read_series(
    rows: Iterable[dict[str, Any]], names: Mapping[str, str], hosts: Mapping[str, str], begun_s: float
) -> tuple[list[Series], Counter[str]]:
    """The series of a run's metric rows (`storage.schemas.METRICS`) from ``begun_s`` on, and what was left out, by reason."""
    points: dict[tuple[str, str, str], list[Point]] = defaultdict(list)
    left_out: Counter[str] = Counter()
    for row in rows:
        if FORBIDDEN.search(row["metric"]):
            left_out["forbidden word"] += 1
            continue
        subject = neutral_subject(row["component"], names, hosts)
        value = _short(row["value"])
        point = (round(row["wall_s"] - begun_s, 3), value, row["step"], row["stage"])
        points[subject, row["metric"], row["unit"]].append(point)
    every = [Series(*key, tuple(sorted(found, key=lambda p: p[0]))) for key, found in sorted(points.items())]
    pooled = [replace(one, points=_pooled(one.points)) if one.subject == OTHER else one for one in every]
    kept = _evenly_held(pooled, set(names.values()))
    left_out["not of every process"] += len(pooled) - len(kept)
    return kept, +left_out


def neutral_subject(component: str, names: Mapping[str, str], hosts: Mapping[str, str]) -> str:
    """Whose metric it is, in the case's names."""
    link = _LINK.match(component)
    if link and link[1] in names and link[2] in names:
        return f"{names[link[1]]}>{names[link[2]]}:{link[3]}"
    host, _, device = component.partition(":")
    if host in hosts and _DEVICE.match(device):
        return f"{hosts[host]}:{device}"
    known = names.get(component) or hosts.get(component)
    return known or (component if _MACHINE.match(component) else OTHER)


def coarse(series: Iterable[Series]) -> list[Series]:
    """Means over `COARSE_S` from the case's start on, at the beginning of each; the totals of stages as they are."""
    return [one if one.metric.startswith(STAGE_TOTALS) else replace(one, points=_means(one.points)) for one in series]


def write_series(series: Iterable[Series], folder: Path, names: Iterable[str], hosts: Iterable[str]) -> None:
    """One file for each component and host, ``links``, ``machine`` and ``other``: the same set whatever is in them."""
    texts: dict[str, list[str]] = {name: [] for name in (*names, *hosts, "links", "machine", OTHER)}
    for one in series:
        owner = "links" if ">" in one.subject else one.subject if one.subject in texts else "machine"
        texts[owner].append(json.dumps(_line(one), separators=(",", ":")))
    folder.mkdir(parents=True)
    for name, lines in texts.items():
        (folder / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _line(series: Series) -> dict[str, Any]:
    times, values, steps, stages = map(list, zip(*series.points, strict=True))
    told = {"step": steps} if any(step >= 0 for step in steps) else {}
    told |= {"stage": stages} if any(stages) else {}
    return {"subject": series.subject, "metric": series.metric, "unit": series.unit, "t_s": times, "value": values, **told}


def _short(value: float | None) -> float | None:
    """Whole numbers as they are, others to six digits: no source can tell more. JSON has no word for what is not finite."""
    if value is None or not isfinite(value):
        return None
    return int(value) if value.is_integer() else float(f"{value:.6g}")


def _pooled(points: tuple[Point, ...]) -> tuple[Point, ...]:
    """All that is not the job's as one: the sum of what was told at one time."""
    sums: dict[float, list[float]] = defaultdict(list)
    for time_s, value, _, _ in points:
        sums[time_s] += [] if value is None else [value]
    return tuple((time_s, sum(values) if values else None, -1, "") for time_s, values in sorted(sums.items()))


def _evenly_held(series: list[Series], components: set[str]) -> list[Series]:
    alive = {one.subject for one in series if one.metric == "cpu_ratio"} & components
    having: dict[str, set[str]] = defaultdict(set)
    for one in series:
        having[one.metric].add(one.subject)
    return [one for one in series if not one.metric.startswith(_HELD) or alive <= having[one.metric]]


def _means(points: tuple[Point, ...]) -> tuple[Point, ...]:
    spans: dict[float, list[float]] = defaultdict(list)
    for time_s, value, _, _ in points:
        spans[time_s // COARSE_S * COARSE_S] += [] if value is None else [value]
    return tuple((begin, _short(float(fmean(values))) if values else None, -1, "") for begin, values in sorted(spans.items()))
