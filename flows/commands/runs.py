"""Verbs that look at runs: list, show, ps. The experimenter's view; it opens truth."""

from __future__ import annotations

import time
from dataclasses import asdict

import click

from flows.printing import as_json, print_json, print_table


@click.command("list")
@as_json
def list_command(as_json: bool) -> None:
    """List the runs of this home."""
    from storage.catalogue import list_runs

    rows = [asdict(row) for row in list_runs()]
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
@click.argument("run_id", metavar="RUN")
@as_json
def show(run_id: str, as_json: bool) -> None:
    """Show all that is kept of a RUN, its truth included."""
    from tasks.report import result_table, text_table
    from tasks.show import show_run
    from tasks.summary import describe

    found = show_run(run_id)
    if as_json:
        print_json(found)
        return
    click.echo(f"folder: {found['folder']}")
    click.echo(f"outcome: {describe(found['outcome'])}\n")
    click.echo(text_table(result_table([run_id])) + "\n")
    print_table(found["injections"], ["mono_s", "what", "fault_id"], "nothing was armed")
    for gap in found["outcome"]["gaps"]:
        click.echo(f"not readable: {gap}", err=True)


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
