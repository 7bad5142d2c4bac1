"""Verbs that look at runs: list, ps. The experimenter's view; it opens truth."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

import click

from flows.printing import as_json, print_json, print_table


@click.command("list")
@click.option("--scenario", help="Of this scenario only.")
@click.option("--arm", help="Of this arm only.")
@click.option("--profile", help="Of this profile only.")
@click.option("--state", help="In this state only: running, completed, invalid, crashed, cancelled, unreadable.")
@click.option("--valid/--not-valid", default=None, help="Only those that count, or only those that do not.")
@click.option("--days", type=click.FloatRange(min=0), help="Begun in the last so many days.")
@as_json
def list_command(days: float | None, as_json: bool, **wanted: Any) -> None:
    """List the runs of this home."""
    from storage.catalogue import list_runs

    since_s = None if days is None else time.time() - days * 86400
    given = {name: value for name, value in wanted.items() if value is not None}
    rows = [asdict(row) for row in list_runs(since_s, **given)]
    if as_json:
        print_json(rows)
        return
    for row in rows:
        row["started"] = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row["started_s"])) if row["started_s"] else ""
    columns = ["run_id", "started", "scenario", "arm", "seed", "profile", "place", "state", "valid"]
    print_table(rows, columns, "no runs yet; try: faultline run worker-kill")
    for row in rows:
        for problem in row["problems"]:
            click.echo(problem, err=True)


@click.command()
@as_json
def ps(as_json: bool) -> None:
    """Map the processes of running jobs to components and faults."""
    from tasks.processes import process_rows

    rows = process_rows()
    if as_json:
        print_json(rows)
        return
    print_table(rows, ["run_id", "component", "host", "pid", "pid_inside", "state", "faults"], "no job is running")
