"""Verbs of the published set: build it, run diagnosers on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from flows.printing import as_json, print_json, print_table

COLUMNS = ["diagnoser", "tier", "n", "joint", "component", "stage", "kind", "false blame", "of decoys"]


@click.group()
def benchmark() -> None:
    """Build a set of sealed cases, and measure diagnosers on it. Give it a FAULTLINE_HOME of its own: that is its vault."""


@benchmark.command()
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option("--cases", type=click.IntRange(min=4), default=200, show_default=True, help="How many.")
@click.option("--seed", type=int, default=17, show_default=True, help="Fixes which cells are drawn.")
@click.option("--scenario", "scenarios", multiple=True, help="By name; may be given often.  [default: every shipped one]")
@click.option("--sweep", is_flag=True, help="And every cell of the sweep (benchmark cells).")
@click.option("--arm", "arms", multiple=True, help="These alone, and their controls; may be given often.  [default: all]")
@click.option("--held-out", "held_out", multiple=True, help="A scenario that is never in the development split.")
@click.option("--profile", default="sealed", show_default=True, help="How large: smoke, nightly, sealed.")
@click.option("--first-seed", type=int, default=500, show_default=True, help="Seeds of the runs count from here.")
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    default=7,
    show_default=True,
    help="How many to draw from, after three for healthy runs.",
)
@click.option("--held-out-from", type=int, default=505, show_default=True, help="Seeds from here on are held out.")
@click.option("--stored", is_flag=True, help="Take the runs that are there and make no others.")
def build(out: Path, stored: bool, sweep: bool, scenarios: tuple[str, ...], **wanted: Any) -> None:
    """Make the set in OUT; what is there already is not made again."""
    from injection.sweep import sweep_cells
    from tasks.benchmark import build_set
    from tasks.cells import Wanted
    from tasks.plan import shipped_scenarios

    names = scenarios or shipped_scenarios()
    asked = Wanted(scenarios=(*names, *(sweep_cells() if sweep else ())), **wanted)
    index = build_set(asked, out, click.echo, run_missing=not stored)
    for missing in index["left_out"]:
        click.echo(f"left out: {missing['cell']}: {missing['reason']}")
    click.echo(f"{len(index['cases'])} of {asked.cases} cases in {out}")


@benchmark.command()
@click.option("--split", type=click.Choice(["development", "held-out"]), help="Of this split only.")
@click.option("--left-out", is_flag=True, help="Instead, what there is no cell of, and why.")
@as_json
def cells(split: str | None, left_out: bool, as_json: bool) -> None:
    """List the sweep's cells: generated scenarios, each kind of fault in each stage, with the split of each."""
    from injection import sweep

    there = [
        {"name": cell.name, "kind": cell.kind, "stage": cell.stage, "on": " -> ".join(cell.whom), "split": cell.split}
        for cell in sweep.sweep_cells().values()
        if split in (None, cell.split)
    ]
    missing = [{"kind": kind, "stage": stage, "reason": reason} for kind, stage, reason in sweep.left_out()]
    rows = missing if left_out else there
    if as_json:
        print_json(rows)
    else:
        print_table(rows, list(rows[0]), "no cells")


@benchmark.command()
@click.argument("out", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--split", "splits", multiple=True, help="May be given often; `all`.  [default: development]")
@click.option("--diagnoser", "names", multiple=True, help="May be given often.  [default: all that can be asked here]")
@click.option("--tier", "tiers", multiple=True, help="May be given often.  [default: all]")
@click.option(
    "--at-once", type=click.IntRange(min=1), default=1, show_default=True, help="How many diagnoses run side by side."
)
@click.option("--report", type=click.Path(dir_okay=False, path_type=Path), help="Write the leaderboard's page, in Markdown.")
@click.option(
    "--answers", type=click.Path(dir_okay=False, path_type=Path), help="Write every answer, a JSON line a case (.gz)."
)
@as_json
def run(
    out: Path,
    splits: tuple[str, ...],
    names: tuple[str, ...],
    tiers: tuple[str, ...],
    at_once: int,
    report: Path | None,
    answers: Path | None,
    as_json: bool,
) -> None:
    """Diagnose (in sandboxes) and score the cases of OUT in this home; each opening of a split is written down.

    What the same code has answered already is not asked again: interrupted, it goes on where it was.
    """
    from tasks.board import measure
    from tasks.leaderboard import write_answers, write_page
    from tasks.score import standings

    asked = () if "all" in splits else splits or ("development",)
    scores = measure(out, asked, list(names) or None, list(tiers) or None, lambda line: click.echo(line, err=as_json), at_once)
    if report:
        write_page(report, scores)
    if answers:
        write_answers(answers, scores.values())
    rows = standings(scores.values())
    if as_json:
        print_json(rows)
    else:
        print_table([_row(row) for row in rows], COLUMNS, "no answers")


def _row(row: dict[str, Any]) -> dict[str, Any]:
    grains = {name: _rate(row["grains"][name]["ac1"]) for name in ("joint", "component", "stage", "kind") if row["grains"]}
    blame = {"false blame": _rate(row["false_blame"]), "of decoys": _rate(row["false_blame_decoys"])}
    return {**{key: row[key] for key in ("diagnoser", "tier", "n")}, **grains, **blame}


def _rate(rate: dict[str, Any]) -> str:
    """A rate with its 95 % interval, and what a guess would get."""
    if rate["rate"] is None:
        return "-"
    chance = f", chance {rate['chance']:.2f}" if "chance" in rate else ""
    return f"{rate['rate']:.2f} [{rate['low']:.2f}, {rate['high']:.2f}]{chance}"
