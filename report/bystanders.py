"""Was anybody hit who was not meant? What the kernel tells of every other process and link while faults were in force.

Held against the control arm of the same seed, over the same time from the same point on; where there is none, against the run's
own time before, and it is said so. Only figures that do not follow from what the job does: a worker that waits for the target
uses less of everything, but no packet of its own is late or sent again, and none of its pages has to be read back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from storage.records import FaultKind, Phase

Record = Mapping[str, Any]
Measure = tuple[Callable[[Sequence[float]], float], float]
#: The sampler's figures, of links and of processes: how the readings of a while are summed up, and by how much that may exceed
#: the highest reading without a fault. A round trip of an untouched link varies by milliseconds: both its ends wait for a core.
OF_LINKS: dict[str, Measure] = {"link_rtt_s": (median, 0.010), "link_retransmits_per_s": (fmean, 1.0)}
OF_PROCESSES: dict[str, Measure] = {"major_faults_per_s": (fmean, 1.0)}
MEASURES = {**OF_LINKS, **OF_PROCESSES}
#: Fewer readings than this on either side tell nothing.
LEAST = 3
AS_CONTROL, NOT_AS_CONTROL = "as in the control arm", "not as in the control arm"
AS_BEFORE, NOT_AS_BEFORE, CANNOT_TELL = "as before the fault", "not as before the fault", "cannot tell"


@dataclass(frozen=True)
class Run:
    """What is needed of one arm: plan, history, and the metric rows of `MEASURES`."""

    plan: Record
    history: Sequence[Record]
    rows: Sequence[Record]


@dataclass(frozen=True)
class Bystander:
    """One figure of one bystander, summed up over the `n` readings `during` the fault.

    `reference` is the same in the control arm over the same time, or in this run before the fault; `most` is the highest of the
    `n_reference` readings without a fault. The verdict asks whether `during` lies within what was read without one, to the
    tolerance of `MEASURES`: it finds what is gross.
    """

    component: str
    metric: str
    unit: str
    n: int
    n_reference: int
    during: float | None
    reference: float | None
    most: float | None
    verdict: str


def bystanders(run: Run, control: Run | None) -> list[Bystander]:
    """Every figure of everyone who was not meant, by name. Empty where no fault was in force."""
    window = in_force(run)
    if window is None or all(fault["kind"] == FaultKind.NOOP for fault in run.plan["faults"]):
        return []
    length = window[1] - window[0]
    ours = _readings(run.rows)
    theirs = _readings(control.rows) if control else {}
    began = _applied(control) if control else None
    found = []
    for key in sorted(ours):
        if _meant(key[0], run.plan["faults"]):
            continue
        during = [value for when, value in ours[key] if window[0] <= when <= window[1]]
        before = [value for when, value in ours[key] if when < window[0]]
        if control and began is not None:
            alone = [value for _, value in theirs.get(key, [])]
            then = [value for when, value in theirs.get(key, []) if began <= when <= began + length]
            found.append(_judged(key, during, then or alone, alone, (AS_CONTROL, NOT_AS_CONTROL)))
        else:
            found.append(_judged(key, during, before, before, (AS_BEFORE, NOT_AS_BEFORE)))
    return found


def told_bystanders(found: Record) -> str:
    """What `faultline show` has of them, in one line: how many figures had which verdict, and which stood out."""
    figures = found["figures"]
    if not figures:
        return "nothing was done to anybody"
    counts = Counter(one["verdict"] for one in figures)
    against = f", held against {found['against']}" if found["against"] else ", of its own: there is no control arm of this seed"
    loud = [one for one in figures if one["verdict"] in (NOT_AS_CONTROL, NOT_AS_BEFORE)]
    listed = "".join(f"; {one['component']} {one['metric']} {one['during']:.3g} {one['unit']}" for one in loud)
    return ", ".join(f"{count} figures {verdict}" for verdict, count in counts.most_common()) + against + listed


def in_force(run: Run) -> tuple[float, float] | None:
    """Monotonic seconds from the first fault's being applied until one is undone or the controller fails; None without one."""
    began = _applied(run)
    if began is None:
        return None
    ends = [line["mono_s"] for line in run.history if _is_over(line) and line["mono_s"] > began]
    return began, min(ends, default=max(float(line["mono_s"]) for line in run.history))


def _is_over(line: Record) -> bool:
    failed = line.get("what") == "event" and line.get("phase") == Phase.ERROR and line.get("component") == "controller"
    return failed or line.get("what") in ("reverted", "gone")


def _applied(run: Run) -> float | None:
    """When the first fault (in a control arm the first noop) was applied."""
    noops = {fault["id"] for fault in run.plan["faults"] if fault["kind"] == FaultKind.NOOP}
    real = {fault["id"] for fault in run.plan["faults"]} - noops
    told = [
        float(line["mono_s"]) for line in run.history if line.get("what") == "applied" and line["fault_id"] in (real or noops)
    ]
    return min(told, default=None)


def _meant(component: str, faults: Iterable[Record]) -> bool:
    """Whether this is a target of a fault, or a link that shares its packets or an end with one."""
    ends = set(component.split(":")[0].split(">"))
    for target in (fault["target"] for fault in faults):
        if target["type"] == "link" and ends == {target["src"], target["dst"]}:
            return True
        if target["type"] != "link" and target["component"] in ends:
            return True
    return False


def _readings(rows: Sequence[Record]) -> dict[tuple[str, str, str], list[tuple[float, float]]]:
    found: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    for row in rows:
        if row["metric"] in MEASURES and (">" in row["component"]) == (row["metric"] in OF_LINKS) and row["value"] is not None:
            key = (row["component"], row["metric"], row["unit"])
            found.setdefault(key, []).append((float(row["mono_s"]), float(row["value"])))
    return found


def _judged(
    key: tuple[str, str, str], during: Sequence[float], then: Sequence[float], alone: Sequence[float], words: tuple[str, str]
) -> Bystander:
    if min(len(during), len(alone)) < LEAST:
        return Bystander(*key, len(during), len(alone), None, None, None, CANNOT_TELL)
    summed_up, tolerance = MEASURES[key[1]]
    mine, most = summed_up(during), max(alone)
    return Bystander(*key, len(during), len(alone), mine, summed_up(then), most, words[mine > most + tolerance])
