"""Verb matrix: the one-word form of `prefect deployment run fault-matrix/fault-matrix`, with everything around it."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from flows.api import Api
    from flows.stack import Stack


@click.command()
@click.option("--profile", default="smoke", show_default=True, help="How large: smoke, nightly, sealed.")
@click.option("--seed", type=int, default=17, show_default=True, help="Fixes every draw.")
@click.option("--repeats", type=click.IntRange(min=0), help="Runs of each scenario and arm.  [default: the profile's]")
@click.option("--baselines", type=click.IntRange(min=0), help="Healthy runs.  [default: the profile's]")
@click.option("--scenario", "scenarios", multiple=True, help="By name; may be given often.  [default: the profile's]")
@click.option("--arm", "arms", multiple=True, help="May be given often.  [default: all]")
@click.option("--place", type=click.Choice(["virtual-cluster", "plain-host"]), help="Where the job runs.")
@click.option("--keep", is_flag=True, help="Leave the stack up afterwards.")
def matrix(keep: bool, **wanted: Any) -> None:
    """Run healthy runs and every scenario in every arm; print the result table."""
    from flows.stack import down, up

    given = {name: value for name, value in wanted.items() if value not in (None, ())}
    parameters = {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}
    count = _plan(parameters)
    stack, started = up(click.echo)
    try:
        click.echo(f"{count} runs to do; watch them at {stack.ui_url}")
        valid = _follow(stack, parameters)
    finally:
        if started and not keep:
            down()
    click.echo(f"user interface: {stack.ui_url}{'' if keep or not started else '  (ended; --keep leaves it up)'}")
    sys.exit(0 if valid else 1)


def _plan(parameters: dict[str, Any]) -> int:
    """Plan every cell here already, so that bad input is refused before anything starts; returns how many there are."""
    from tasks.plan import matrix_cells, plan_cell
    from tasks.profiles import profile

    size = profile(parameters["profile"])
    cells = matrix_cells(
        parameters.get("scenarios", list(size.scenarios)),
        parameters.get("arms", []),
        parameters.get("repeats", size.repeats),
        parameters.get("baselines", size.baselines),
        parameters["seed"],
        size.name,
    )
    if not cells:
        raise ValueError("nothing to run: no scenario has such an arm, and no baselines are wanted")
    for cell in cells:
        plan_cell(cell, parameters.get("place"))
    return len(cells)


def _follow(stack: Stack, parameters: dict[str, Any]) -> bool:
    """Start the run, show its progress and its result; whether every cell came out valid. Leaving early cancels it."""
    from flows.api import Api
    from flows.follow import Follower

    api = Api(stack.api_url)
    page = f"matrix-{parameters['profile']}-{parameters['seed']}-{time.strftime('%Y%m%d-%H%M%S')}"
    run = api.start("fault-matrix/fault-matrix", parameters | {"page": page})
    try:
        end = Follower(api, run["id"], click.echo).to_the_end()
    except BaseException:  # also Ctrl-C and SIGTERM
        click.echo("cancelling the matrix and undoing its faults", err=True)
        _cancel(api, run["id"])
        raise
    rows = api.table(run["id"], "fault-matrix")
    if end["state_type"] != "COMPLETED" or not rows:
        message = (end.get("state") or {}).get("message") or "no reason given"
        raise RuntimeError(f"the matrix ended as {str(end['state_name']).lower()}: {message}")
    return _show(rows, page)


def _show(rows: list[dict[str, Any]], page: str) -> bool:
    from storage.layout import reports_dir
    from tasks.report import result_table, text_table

    runs = [row["run_id"] for row in rows if row["run_id"]]
    click.echo("\n" + text_table(result_table(runs)) + "\n")
    for row in rows:
        if not row["run_id"]:
            click.echo(f"{row['scenario']} / {row['arm']} / seed {row['seed']}: {row['outcome']}")
    good = sum(bool(row["valid"]) for row in rows)
    click.echo(f"{good} of {len(rows)} runs are valid")
    click.echo(f"report: {reports_dir() / page}.html")
    return good == len(rows)


def _cancel(api: Api, run: str) -> None:
    """Ask for it and wait until it is over, for as long as the stack may take to undo its faults."""
    from flows.api import ServerError
    from flows.stack import cancel_all

    try:
        api.cancel(run)
        cancel_all(api)
    except ServerError as error:
        click.echo(f"could not cancel: {error}", err=True)
