"""Figure 2: one metric of each component over time, with the instant of the fault and that of the first error."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.axes import Axes

from report.case import Case
from report.comparison import RunComparison
from report.drawing import BAND, ERROR, FAULT, MUTED, SERIES, drawing, printable, to_svg
from report.outcome import Record, role_of
from report.sampled import SAMPLED


@dataclass(frozen=True)
class Choice:
    """What is drawn, why, and the healthy interval to draw behind it (None where there is none)."""

    metric: str
    stage: str
    role: str
    unit: str
    why: str
    band: tuple[float, float] | None = None


def series(case: Case, comparison: RunComparison | None) -> tuple[Markup, Choice] | None:
    """The figure and what it shows, or None where the run has no metric worth a curve."""
    choice = choose(case, comparison)
    if choice is None:
        return None
    lines = curves(case, choice)
    zero = (case.outcome.get("root") or {}).get("wall_s") or min(points[0][0] for points in lines.values())
    with drawing(10.0, 2.9) as (figure, axes):
        _curves(axes, lines, zero, choice)
        _instants(axes, case, zero)
        return to_svg(figure, f"{case.run_id}-series", f"{choice.metric} of {choice.role} over time in {case.name}"), choice


def choose(case: Case, comparison: RunComparison | None) -> Choice | None:
    """The metric that stood out most, the job's own before the sampler's; without one, the time of the stage of the fault."""
    for one in sorted(comparison.stood_out, key=lambda one: one.metric in SAMPLED) if comparison else []:
        sampled = one.metric in SAMPLED
        band = None if sampled else (one.lo_t, one.hi_t)
        choice = Choice(
            one.metric, "" if sampled else one.stage, one.role, one.unit, f"it stood out most ({one.verdict})", band
        )
        if any(len(points) > 2 for points in curves(case, choice).values()):
            return choice
    stage = (case.outcome.get("root") or {}).get("stage")
    for row in case.metrics:
        if row["metric"].startswith("timeperf/") and row["value"] is not None and stage in (None, row["stage"]):
            role = role_of(row["component"])
            return Choice(row["metric"], row["stage"], role, row["unit"], "it times the stage of the fault")
    return None


def curves(case: Case, choice: Choice) -> dict[str, list[tuple[float, float]]]:
    """(wall_s, value) by component."""
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in case.metrics:
        if _is(row, choice) and row["value"] is not None:
            found[str(row["component"])].append((float(row["wall_s"]), float(row["value"])))
    return dict(sorted(found.items()))


def _is(row: Record, choice: Choice) -> bool:
    return (row["metric"], row["stage"] or "", role_of(row["component"])) == (choice.metric, choice.stage, choice.role)


def _curves(axes: Axes, lines: dict[str, list[tuple[float, float]]], zero: float, choice: Choice) -> None:
    values = [value for points in lines.values() for _, value in points]
    if min(values) > 0 and max(values) > 20 * min(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_formatter(lambda *_: "")
    if choice.band:
        axes.axhspan(*choice.band, color=BAND, linewidth=0, zorder=0)
    for index, (component, points) in enumerate(lines.items()):
        colour = SERIES[index % len(SERIES)]
        at, height = [wall_s - zero for wall_s, _ in points], [value for _, value in points]
        axes.plot(at, height, "o-", color=colour, lw=1.6, ms=3.5, label=printable(component, 24), zorder=3)
    axes.set_ylabel(printable(choice.unit, 24) or "1")
    axes.margins(x=0.02)
    if len(lines) <= 2 * len(SERIES):
        axes.legend(loc="upper left", frameon=False, fontsize=8.5, ncols=min(6, len(lines)))


def _instants(axes: Axes, case: Case, zero: float) -> None:
    root, first = case.outcome.get("root"), case.outcome.get("first_error")
    axes.set_xlabel("seconds after the fault took hold" if root and root.get("wall_s") else "seconds after the first sample")
    marks: Sequence[tuple[Record | None, str, str]] = ((root, FAULT, "fault"), (first, ERROR, "first error"))
    top = axes.get_xaxis_transform()
    for place, colour, name in marks:
        if place and place.get("wall_s") is not None:
            at = place["wall_s"] - zero
            axes.axvline(at, color=colour, linewidth=1.3, zorder=2)
            side, shift = ("right", -3) if name == "fault" else ("left", 3)
            note = axes.annotate(
                name, (at, 1.0), xycoords=top, xytext=(shift, -2), textcoords="offset points", ha=side, va="top"
            )
            note.set(color=colour, fontsize=8.5)
    axes.tick_params(length=3, color=MUTED)
