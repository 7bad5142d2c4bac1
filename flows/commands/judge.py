"""Verbs that judge stored runs: compare, diagnose, score. None needs a job or a server."""

from __future__ import annotations

from typing import Any

import click

from flows.printing import as_json, print_json, print_table

runs_argument = click.argument("run_ids", metavar="RUN...", nargs=-1)

#: What `compare` prints of each run: the strongest movements; the page has all.
MOVED_ROWS = 10
EFFECT_COLUMNS = ["measure", "n", "with", "without", "difference", ""]
MOVED_COLUMNS = ["stage", "metric", "component", "step", "value", "healthy", "n", "change", "ratio", "q"]


@click.command()
@runs_argument
@click.option("--baseline", "baselines", multiple=True, help="A healthy run; may be given often.  [default: comparable ones]")
@click.option("--name", default="compare", show_default=True, help="Name of the page.")
@as_json
def compare(run_ids: tuple[str, ...], baselines: tuple[str, ...], name: str, as_json: bool) -> None:
    """Compare RUNs (default: all with a fault) with healthy bands."""
    from tasks.compare import compare_runs
    from tasks.report import write_report

    found = compare_runs(list(run_ids) or None, list(baselines) or None)
    if as_json:
        print_json(found.to_dict())
        return
    for one in found.runs:
        moved = f"{len(one.moved)} of {one.tested} figures moved beyond doubt"
        click.echo(f"{one.run_id}  {one.name}: {one.root_to_error}; {moved}")
        if one.moved:
            print_table([_moved_row(movement) for movement in one.moved[:MOVED_ROWS]], MOVED_COLUMNS, "")
    for mitigation in found.mitigations:
        seeds = ", ".join(map(str, mitigation.seeds))
        click.echo(f"{mitigation.scenario}: {mitigation.posture} against legacy, seeds {seeds}")
        print_table([_effect_row(effect) for effect in mitigation.effects], EFFECT_COLUMNS, "")
        for quality in mitigation.qualities:
            kept = "within" if quality.kept else "NOT within"
            control = f"{quality.control_exact:.3f} [{quality.control_lo:.3f}, {quality.control_hi:.3f}]"
            click.echo(f"  seed {quality.seed}: final exact match {quality.final_exact:.3f}, {kept} its control's {control}")
    for gap in found.gaps:
        click.echo(f"note: {gap}")
    if found.runs:
        click.echo(f"report: {write_report([*found.baselines, *(one.run_id for one in found.runs)], name)}")


def _effect_row(effect: Any) -> dict[str, Any]:
    """One measure with the mitigation and without, and the 95 % interval of the difference."""
    interval = f" [{effect.lo:+.3g}, {effect.hi:+.3g}]" if effect.lo is not None else ""
    means = {"with": f"{effect.mean:.3g}", "without": f"{effect.mean_reference:.3g}"}
    return {
        "measure": effect.measure,
        "n": effect.n,
        **means,
        "difference": f"{effect.difference:+.3g}{interval}",
        "": effect.verdict,
    }


def _moved_row(movement: Any) -> dict[str, Any]:
    """One figure against its healthy band: prediction interval of a healthy value, absolute change, ratio to the mean."""
    unit = f" {movement.unit}" if movement.unit else ""
    ratio = f"{movement.ratio:.3g}" if movement.ratio is not None else ""
    return {
        "stage": movement.stage,
        "metric": movement.metric,
        "component": movement.component,
        "step": movement.step,
        "value": f"{movement.value:.4g}{unit}",
        "healthy": f"{movement.mean:.4g} [{movement.lo_t:.4g}, {movement.hi_t:.4g}]",
        "n": movement.n,
        "change": f"{movement.value - movement.mean:+.4g}{unit}",
        "ratio": ratio,
        "q": f"{movement.q:.2g}" if movement.q is not None else "",
    }


@click.command()
@runs_argument
@click.option(
    "--diagnoser",
    "names",
    multiple=True,
    help="May be given often; `chat` is a language model.  [default: all but chat and rcaeval-*]",
)
@click.option("--tier", "tiers", multiple=True, help="T0 to T3; may be given often.  [default: where each has more to read]")
@click.option(
    "--human", "person", metavar="PSEUDONYM", help="Work one RUN yourself, here, against the clock; `practice` is a RUN, too."
)
@as_json
def diagnose(run_ids: tuple[str, ...], names: tuple[str, ...], tiers: tuple[str, ...], person: str, as_json: bool) -> None:
    """Let diagnosers work on sealed RUNs, blind."""
    if person:
        _by_hand(_given(run_ids), person, tiers)
        return
    answers = {run: _answers(_known(run), names, tiers) for run in _given(run_ids)}
    if as_json:
        print_json(answers)
        return
    rows = [_answer_row(run, answer) for run, told in answers.items() for answer in told]
    print_table(rows, ["run_id", "diagnoser", "tier", "answer", "reason"], "no answers")


def _answers(run: str, names: tuple[str, ...], tiers: tuple[str, ...]) -> list[dict[str, Any]]:
    """What the programs say, and the model of FAULTLINE_CHAT_URL where `chat` is one of the names."""
    from storage.layout import run_paths
    from tasks.diagnose import diagnose_run

    programs = tuple(name for name in names if name != "chat")
    answers = diagnose_run(run_paths(run), programs or None, tiers or None) if programs or not names else []
    if "chat" not in names:
        return answers
    from adapters.chat import endpoint_from_environment
    from diagnosis.vocabulary import TIERS
    from tasks.chat import chat_run

    return answers + [chat_run(run_paths(run), endpoint_from_environment(), tier) for tier in tiers or TIERS]


def _by_hand(run_ids: tuple[str, ...], person: str, tiers: tuple[str, ...]) -> None:
    """One case, one person, one answer. A figure about people is told of people alone: this is the only way to one."""
    from storage.layout import run_paths
    from tasks.person import practise, work_case

    if len(run_ids) != 1 or len(tiers) > 1:
        raise click.UsageError("a person works one RUN on one tier at a time")
    if run_ids[0] == "practice":
        practise(input, click.echo, *tiers)
        return
    paths = run_paths(_known(run_ids[0]))
    click.echo("Your answers are kept under your pseudonym, with what you asked for and when.")
    about = {
        "consent": click.confirm("Do you agree"),
        "years": click.prompt("Years of experience with training at scale", type=click.IntRange(0, 60)),
        "seen_before": click.confirm("Have you seen this case before, or written or run what was done to it"),
    }
    if not about["consent"] or about["seen_before"]:
        raise ValueError("then this case is not for you; nothing was kept")
    answer = work_case(paths, person, about, input, click.echo, *tiers)
    click.echo(
        f"kept after {answer['wall_s'] / 60:.1f} minutes; {answer['meter']['lines']} lines of {answer['meter']['files']} files"
    )


@click.command()
@runs_argument
@as_json
def score(run_ids: tuple[str, ...], as_json: bool) -> None:
    """Open the truth of RUNs and score what diagnosers answered."""
    from storage.layout import run_paths
    from tasks.score import score_run

    scores = {run: score_run(run_paths(_known(run))) for run in _given(run_ids)}
    if as_json:
        print_json(scores)
        return
    rows = [{"run_id": run, **verdict} for run, found in scores.items() for verdict in found["verdicts"]]
    print_table(rows, ["run_id", "diagnoser", "tier", "outcome", "top"], "no answers to score")


@click.command()
@runs_argument
@as_json
def reveal(run_ids: tuple[str, ...], as_json: bool) -> None:
    """Publish label and salt of RUNs: from then on anyone can check them, and no answer counts."""
    from storage.layout import run_paths
    from tasks.reveal import reveal_run

    opened = {run: reveal_run(run_paths(_known(run))) for run in _given(run_ids)}
    if as_json:
        print_json(opened)
        return
    rows = [{"run_id": run, **told["label"], "kinds": ", ".join(told["label"]["kinds"])} for run, told in opened.items()]
    print_table(rows, ["run_id", "fault", "component", "peer", "stage", "kinds", "step"], "")


@click.command("verify-seal")
@runs_argument
@as_json
def verify_seal(run_ids: tuple[str, ...], as_json: bool) -> None:
    """Check evidence, answers and, once revealed, label of RUNs against their hashes."""
    from storage.layout import run_paths
    from tasks.reveal import check_seal

    checked = {run: check_seal(run_paths(_known(run))) for run in _given(run_ids)}
    if as_json:
        print_json(checked)
    else:
        rows = [
            {"run_id": run, **told, "refused": len(told["refused"]), "seal": _seal_words(told)} for run, told in checked.items()
        ]
        print_table(rows, ["run_id", "revealed", "answers", "refused", "seal"], "")
    if any(told["problems"] for told in checked.values()):
        raise click.exceptions.Exit(1)


def _seal_words(checked: dict[str, Any]) -> str:
    return "; ".join(checked["problems"]) or "intact"


def _given(run_ids: tuple[str, ...]) -> tuple[str, ...]:
    if not run_ids:
        raise click.UsageError("name at least one run (see: faultline list)")
    return run_ids


def _known(run: str) -> str:
    """The id again; an unknown run is refused with one sentence."""
    from storage.catalogue import open_run

    return open_run(run).run_id


def _answer_row(run: str, answer: dict[str, Any]) -> dict[str, Any]:
    told = answer["diagnosis"]
    if not told:
        words = "failed"
    elif told["abstain"]:
        words = "abstains"
    elif not told["fault"]:
        words = "nothing is wrong"
    else:
        words = "{kind} on {component} in {stage}".format(**told["ranked"][0])
    return {"run_id": run, **answer, "answer": words, "reason": answer["reason"] or (told or {}).get("reason", "")}
