"""The self-contained page of a set of runs: no network, no script, inline figures, light and dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from report import findings
from report.case import Case
from report.comparison import Comparison, Contrasted, RunComparison, measured_from, tell_counts
from report.confusion import Confusion, confusion
from report.movement import Band
from report.sample import Key
from report.series import series
from report.stagetimes import stage_times
from report.tables import COLUMNS, result_rows
from report.timeline import timeline
from report.verdicts import Verdict, standings, verdicts

#: Movements and contrasts listed per run; the rest is counted.
MOST_LISTED = 14
#: Style of the wide columns of the result table.
CLASSES = {"cell": "cell", "root": "place", "error": "place", "valid": "place", "first_error": "text", "diagnosed": "text"}


@dataclass(frozen=True)
class Figure:
    """A drawing and the sentence over it."""

    title: str
    svg: Markup
    note: str


@dataclass(frozen=True)
class Section:
    """What the page says about one run."""

    case: Case
    finding: str
    movement: str
    figures: list[Figure]
    comparison: RunComparison | None
    contrast: Contrasted | None
    verdicts: list[Verdict]


def render(
    name: str,
    cases: Sequence[Case],
    comparison: Comparison,
    bands: Mapping[str, Mapping[Key, Band]],
    made: str,
    clocks: Sequence[str] = (),
) -> str:
    """The page as HTML. `bands` holds the healthy bands each run was compared with; `made` says when and by what; `clocks`
    when times between hosts meant nothing.
    """
    answers = [verdict for case in cases for verdict in verdicts(case)]
    environment = Environment(loader=PackageLoader("report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters.update(
        prose=findings.words, change=findings.change, counts=tell_counts, silent=findings.silence, number=number, level=level
    )
    return environment.get_template("page.html.j2").render(
        name=name,
        made=made,
        finding=findings.page_finding(cases),
        columns=COLUMNS,
        classes=CLASSES,
        rows=result_rows(cases),
        sections=[section(case, comparison, bands.get(case.run_id, {})) for case in cases if told(case)],
        told={case.run_id for case in cases if told(case)},
        standings=standings(cases),
        mitigation_finding=findings.mitigation_finding(comparison.mitigations),
        diagnosis_finding=findings.diagnosis_finding(answers),
        confusions=confusions(cases),
        quiet=[run for run in comparison.runs if run.run_id in {case.run_id for case in cases if not case.faulty}],
        comparison=comparison,
        clocks=clocks,
        most=MOST_LISTED,
    )


def told(case: Case) -> bool:
    """Whether a run gets a section of its own: it holds a fault, or is not the healthy run it should be."""
    return case.faulty or not case.healthy


def section(case: Case, comparison: Comparison, bands: Mapping[Key, Band]) -> Section:
    """Everything the page says about one run."""
    mine = next((run for run in comparison.runs if run.run_id == case.run_id), None)
    pair = next((pair for pair in comparison.pairs if pair.run_id == case.run_id), None)
    movement = findings.movement_finding(mine) if mine else ""
    drawn = figures(case, mine, bands)
    return Section(case, findings.case_finding(case), movement, drawn, mine, pair, verdicts(case))


def figures(case: Case, comparison: RunComparison | None, bands: Mapping[Key, Band]) -> list[Figure]:
    """The figures a run has the data for."""
    found = []
    if drawn := timeline(case):
        note = "Colour: announced stage. Grey: cores used, full height is one. Arrows: root, first error, final error."
        found.append(Figure(findings.timeline_finding(case), drawn, note))
    if curve := series(case, comparison):
        drawn, choice = curve
        note = "Grey: 95 % t prediction interval of a healthy sample." if choice.band else "No healthy band to draw behind it."
        found.append(Figure(findings.series_finding(choice), drawn, note))
    warm, first = measured_from(case, int(case.plan.get("warmup_steps", 0)))
    if drawn := stage_times(case, bands, warm, first):
        note = "Grey: 95 % t prediction interval of one healthy step; n counts steps, which depend on one another within a run."
        found.append(Figure(findings.stage_times_finding(comparison), drawn, note))
    return found


def confusions(cases: Sequence[Case]) -> list[Confusion]:
    """True stage against predicted stage, per diagnoser and tier, where there are several cases."""
    who = sorted({verdict.who for case in cases for verdict in verdicts(case)})
    return [table for name in who if (table := confusion(cases, name)).n > 1]


def number(value: Any, digits: int = 3) -> str:
    """A number for a table; millions are told as such; a dash where there is none."""
    if value is None:
        return "–"
    return f"{value / 1e6:.4g}M" if abs(value) >= 1e6 else f"{value:.{digits}g}" if abs(value) < 1000 else f"{value:.0f}"


def level(q: float | None) -> str:
    """A q value; below 0.0001 its digits say nothing."""
    return "<0.0001" if q is not None and q < 1e-4 else number(q, 2)
