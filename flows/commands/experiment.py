"""Verbs that act on experiments without a server: run, rerun, stop, recover."""

from __future__ import annotations

import sys
from typing import Any

import click

from flows.printing import as_json, print_json, print_table


@click.command()
@click.argument("scenario")
@click.option("--arm", default="legacy", show_default=True, help="control, or a posture that the scenario lists as an arm.")
@click.option("--seed", type=int, default=17, show_default=True, help="Fixes every draw.")
@click.option("--profile", default="smoke", show_default=True, help="How large: smoke, nightly, sealed.")
@click.option("--place", type=click.Choice(["virtual-cluster", "plain-host"]), help="Where the job runs.")
@click.option("--workload", type=click.Choice(["grpo", "sft"]), help="The job under test.  [default: the scenario's]")
@as_json
def run(scenario: str, arm: str, seed: int, profile: str, place: str | None, workload: str | None, as_json: bool) -> None:
    """Run one SCENARIO (a YAML file, or the name of a shipped one), from launch to score."""
    from tasks.plan import load_scenario, make_plan

    _run(make_plan(load_scenario(scenario, workload), arm, seed, profile, place), as_json)


@click.command()
@click.argument("run_id", metavar="RUN")
@as_json
def rerun(run_id: str, as_json: bool) -> None:
    """Repeat the plan of a RUN: the same draws, a new run."""
    from tasks.show import plan_of

    _run(plan_of(run_id), as_json)


@click.command()
def stop() -> None:
    """End every experiment of this home and undo its faults."""
    from flows.api import Api
    from flows.stack import cancel_all, load_stack
    from tasks.stop import stop_all

    stack = load_stack()
    cancelled = cancel_all(Api(stack.api_url)) if stack and stack.up else []
    for name in cancelled:
        click.echo(f"cancelled: {name}")
    ended = stop_all()
    for line in ended:
        click.echo(str(line))
    if not cancelled and not ended:
        click.echo("nothing was running")


@click.command()
@as_json
def recover(as_json: bool) -> None:
    """Undo and end whatever an interrupted run left; refused while one is under way (that is for `stop`)."""
    from dataclasses import asdict

    from tasks.machine_lock import machine_lock
    from tasks.recover import recover as clean_up

    with machine_lock("recover"):
        rows = [asdict(outcome) for outcome in clean_up()]
    if as_json:
        print_json(rows)
    else:
        print_table(rows, ["run_id", "fault_id", "kind", "outcome", "reason"], "nothing to undo")
    sys.exit(1 if any(row["outcome"] == "stuck" for row in rows) else 0)


def _run(plan: dict[str, Any], as_json: bool) -> None:
    from tasks.experiment import run_experiment
    from tasks.report import result_table, text_table
    from tasks.summary import describe

    found = run_experiment(plan, lambda line: click.echo(line, err=as_json))
    if as_json:
        print_json(found)
    else:
        click.echo("\n" + text_table(result_table([found["run_id"]])) + "\n")
        click.echo(f"run {found['run_id']}: {describe(found)}")
    sys.exit(0 if found["valid"] else 1)
