"""Figure 1: how a fault propagates. Time runs to the right; each component has a row; stages are the controller's colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from markupsafe import Markup
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, Patch

from report.case import Case
from report.drawing import ERROR, FAULT, INK, LINE, MUTED, PAPER, STAGE_COLOURS, bare, drawing, printable, to_svg
from report.outcome import errors_of, role_of, seam_events
from storage.records import FaultKind, Role, Stage

#: How much is shown before the fault, as a share of what is shown after it.
LEAD = 0.25
_ORDER = [str(role) for role in Role]
_ACTIVITY = "cpu_ratio"


@dataclass(frozen=True)
class Window:
    """What is shown: wall-clock seconds from `start` to `end`; `zero` is where the axis says 0 (the fault took hold)."""

    start: float
    end: float
    zero: float

    def at(self, wall_s: float) -> float:
        """Seconds on the axis."""
        return wall_s - self.zero

    def holds(self, wall_s: float) -> bool:
        """Whether an instant is shown."""
        return self.start <= wall_s <= self.end


def timeline(case: Case) -> Markup | None:
    """The figure of one run, or None where the run recorded no stage (there is nothing to draw on)."""
    window = window_of(case)
    if window is None:
        return None
    rows = rows_of(case)
    with drawing(10.0, 1.1 + 0.34 * len(rows)) as (figure, axes):
        _activity(axes, case, rows, window)
        _stages(axes, case, rows, window)
        _fault(axes, case, rows, window)
        _errors(axes, case, rows, window)
        _frame(axes, case, rows, window)
        return to_svg(figure, f"{case.run_id}-timeline", f"Timeline of {case.name}: stages, fault and errors by component")


def window_of(case: Case) -> Window | None:
    """From some steps before the fault to a little after the last stage or error; the whole run where it had no fault."""
    spans = case.spans()
    if not spans:
        return None
    root = case.outcome.get("root") or {}
    zero = root.get("wall_s") or spans[0][2]
    end = max(span[3] for span in spans)
    if root and not case.outcome.get("final_error"):
        end = max([span[3] for span in spans if span[1] <= case.fault_step + 1] + [zero])
    end = max([end, *(error["wall_s"] for error in errors_of(case.history, case.logs))])
    shown = [span[2] for span in spans if span[0] != Stage.INIT] or [spans[0][2]]
    far = [start for start in shown if start <= zero - LEAD * (end - zero)]
    start = max(far, default=min(shown[0], zero)) if root else spans[0][2]
    return Window(start, end + 0.02 * (end - start) + 1e-3, zero)


def rows_of(case: Case) -> list[str]:
    """Components from top to bottom: the controller, then all others the run knows of, by role and name."""
    known = {str(row["component"]) for row in [*case.logs, *seam_events(case.history)]}
    known |= {str(row["component"]) for row in case.metrics if row["metric"] == _ACTIVITY and row["component"] != row["host"]}
    for place in (case.outcome.get("root"), case.outcome.get("first_error")):
        known |= {place["component"]} if place else set()
    return [str(Role.CONTROLLER), *sorted(known - {"", str(Role.CONTROLLER)}, key=_place)]


def _place(component: str) -> tuple[int, str]:
    role = role_of(component)
    return (_ORDER.index(role) if role in _ORDER else len(_ORDER), component)


def _stages(axes: Axes, case: Case, rows: Sequence[str], window: Window) -> None:
    for index, component in enumerate(rows):
        tall = component == Role.CONTROLLER
        for stage, _, start, end, phase in case.spans(component):
            if end < window.start or start > window.end:
                continue
            left, right = window.at(max(start, window.start)), window.at(min(end, window.end))
            height = 0.7 if tall else 0.36
            colour = STAGE_COLOURS.get(stage, MUTED)
            edge, width = (ERROR, 1.4) if phase == "error" else (PAPER, 0.6)
            bar = axes.barh(index, right - left, left=left, height=height, color=colour, zorder=3)
            bar[0].set(edgecolor=edge, linewidth=width)


def _activity(axes: Axes, case: Case, rows: Sequence[str], window: Window) -> None:
    """A faint area where a process used its core: it shows who worked, waited, or was gone. A missed reading is a hole."""
    for index, component in enumerate(rows):
        mine = (row for row in case.metrics if row["metric"] == _ACTIVITY and row["component"] == component)
        samples = [row for row in mine if window.holds(row["wall_s"])]
        foot = index + 0.43
        tops = [foot - 0.86 * min(1.0, row["value"]) if row["value"] is not None else math.nan for row in samples]
        times = [window.at(row["wall_s"]) for row in samples]
        axes.fill_between(times, tops, foot, step="pre", color=LINE, linewidth=0, zorder=1)


def _fault(axes: Axes, case: Case, rows: Sequence[str], window: Window) -> None:
    for fault in case.plan.get("faults", []):
        target = fault.get("target") or {}
        component = target.get("component") or target.get("src")
        if fault.get("kind") == FaultKind.NOOP or component not in rows:
            continue
        instants = {line["what"]: line["wall_s"] for line in case.history if line.get("fault_id") == fault["id"]}
        if "applied" not in instants:
            continue
        left = window.at(instants["applied"])
        right = window.at(min(instants.get("gone", instants.get("reverted", window.end)), window.end))
        index = rows.index(component)
        bar = axes.barh(index, right - left, left=left, height=0.94, zorder=4)
        bar[0].set(facecolor="none", edgecolor=FAULT, hatch="////", linewidth=1.0)
        axes.axvline(left, color=FAULT, linewidth=1.2, zorder=2)
        axes.text(left, -0.72, printable(str(fault["kind"])), color=FAULT, fontsize=8.5, ha="left", va="bottom")


def _errors(axes: Axes, case: Case, rows: Sequence[str], window: Window) -> None:
    for error in errors_of(case.history, case.logs):
        if error["source"] == "log" and error["component"] in rows and window.holds(error["wall_s"]):
            axes.plot(window.at(error["wall_s"]), rows.index(error["component"]), "x", color=ERROR, ms=7, mew=1.8, zorder=6)
    points = _chain(case, rows, window)
    for start, end in pairwise(points):
        if start != end:
            arrow = FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=9, shrinkA=4, shrinkB=5)
            arrow.set(color=INK, linewidth=1.0, zorder=5)
            axes.add_patch(arrow)


def _chain(case: Case, rows: Sequence[str], window: Window) -> list[tuple[float, float]]:
    """Points from the root over the first error to the final one, as far as they are known."""
    places: list[Any] = [case.outcome.get(key) for key in ("root", "first_error", "final_error")]
    known = [place for place in places if place and place["component"] in rows and place.get("wall_s") is not None]
    inside = [place for place in known if window.holds(place["wall_s"])] if case.outcome.get("root") else []
    return [(window.at(place["wall_s"]), float(rows.index(place["component"]))) for place in inside]


def _frame(axes: Axes, case: Case, rows: Sequence[str], window: Window) -> None:
    bare(axes)
    axes.set_xlim(window.at(window.start), window.at(window.end))
    axes.set_ylim(len(rows) - 0.45, -0.75)
    axes.set_yticks(range(len(rows)), [printable(row, 24) for row in rows])
    axes.set_axisbelow(True)
    axes.hlines([index + 0.5 for index in range(len(rows) - 1)], *axes.get_xlim(), color=LINE, linewidth=0.5, zorder=0)
    zero = "the fault took hold" if (case.outcome.get("root") or {}).get("wall_s") else "the first stage began"
    axes.set_xlabel(f"seconds after {zero}")
    shown = {span[0] for row in rows for span in case.spans(row) if span[3] >= window.start and span[2] <= window.end}
    handles: list[Artist] = [
        Patch(color=colour, label=stage.replace("_", " ")) for stage, colour in STAGE_COLOURS.items() if stage in shown
    ]
    handles += axes.plot([], [], "x", color=ERROR, ms=7, mew=1.8, label="ERROR line")
    if case.faulty:
        handles.append(Patch(facecolor="none", edgecolor=FAULT, hatch="////", label="fault in force"))
    axes.figure.legend(
        handles=handles,
        loc="outside upper left",
        ncols=len(handles) if len(handles) <= 8 else (len(handles) + 1) // 2,
        frameon=False,
        fontsize=8.5,
    )
