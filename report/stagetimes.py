"""Figure 3: the time of each stage against its healthy band, every stage on one scale (1 = the healthy mean)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup
from matplotlib.axes import Axes

from report.case import Case
from report.drawing import BAND, ERROR, INK, LINE, MUTED, PAPER, bare, drawing, printable, to_svg
from report.movement import MIN_SAMPLES, Band
from report.sample import Key, Sample, samples_of
from storage.records import Role

#: Rows drawn at most; a stage has one or two timings.
MOST_ROWS = 10


def stage_times(case: Case, bands: Mapping[Key, Band], warm: int, first: int) -> Markup | None:
    """The figure of one run, or None where no stage time has a healthy band. Drawn from step `warm`, solid from `first`."""
    rows = timed(case, bands, warm)
    if not rows:
        return None
    with drawing(10.0, 1.0 + 0.3 * len(rows)) as (figure, axes):
        for index, (key, samples) in enumerate(rows):
            _row(axes, index, bands[key], samples, first)
        _frame(axes, rows, bands)
        return to_svg(figure, f"{case.run_id}-stagetimes", f"Stage times of {case.name} relative to the healthy mean")


def timed(case: Case, bands: Mapping[Key, Band], warm: int) -> list[tuple[Key, list[Sample]]]:
    """The controller's stage times that have a band with a positive mean, longest stage first."""
    groups: dict[Key, list[Sample]] = {}
    for sample in samples_of(case.metrics):
        band = bands.get(sample.key)
        known = band is not None and band.n >= MIN_SAMPLES and band.mean > 0 and sample.step >= warm and sample.value > 0
        if sample.metric.startswith("timeperf/") and sample.component == Role.CONTROLLER and known:
            groups.setdefault(sample.key, []).append(sample)
    return sorted(groups.items(), key=lambda item: -bands[item[0]].mean)[:MOST_ROWS]


def _row(axes: Axes, index: int, band: Band, samples: Sequence[Sample], first_step: int) -> None:
    left = max(band.lo_t / band.mean, 1e-2)
    axes.barh(index, band.hi_t / band.mean - left, left=left, height=0.66, color=BAND, zorder=1)
    axes.plot([1, 1], [index - 0.33, index + 0.33], color=MUTED, linewidth=1.0, zorder=2)
    for sample in samples:
        outside = not band.lo_t <= sample.value <= band.hi_t
        late = sample.step >= first_step
        colour = ERROR if outside and late else INK
        face = colour if late else PAPER
        axes.plot(sample.value / band.mean, index, "o", ms=5, mfc=face, mec=colour, mew=1.0, alpha=0.9, zorder=4 if late else 3)
    worst = max((one for one in samples if one.step >= first_step), key=lambda one: abs(one.value - band.mean), default=None)
    note = f"healthy {band.mean:.3g} s [{band.lo_t:.3g}, {band.hi_t:.3g}], n={band.n}"
    if worst is not None:
        note += f"   furthest {worst.value:.3g} s = {worst.value / band.mean:.3g}x"
    axes.annotate(note, (1.01, index), xycoords=axes.get_yaxis_transform(), va="center", fontsize=8.5, color=MUTED)


def _frame(axes: Axes, rows: Sequence[tuple[Key, list[Sample]]], bands: Mapping[Key, Band]) -> None:
    bare(axes)
    values = [sample.value / bands[key].mean for key, samples in rows for sample in samples]
    axes.set_xscale("log")
    axes.set_xlim(min(0.5, 0.8 * min(values)), max(2.0, 1.25 * max(values)))
    axes.set_ylim(len(rows) - 0.5, -0.5)
    names = [printable(key[1].removeprefix("timeperf/"), 34) for key, _ in rows]
    axes.set_yticks(range(len(rows)), names)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}x")
    axes.xaxis.set_minor_formatter(lambda *_: "")
    axes.grid(axis="x", color=LINE, linewidth=0.5)
    axes.set_axisbelow(True)
    axes.set_xlabel(
        "relative to the healthy mean; hollow: before the step of the fault, solid: from it on; red: outside the interval"
    )
