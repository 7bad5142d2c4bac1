"""Verb show: one run, finished or as it goes. The experimenter's view; it opens truth."""

from __future__ import annotations

import sys

import click

from flows.printing import as_json, print_json, print_table


@click.command()
@click.argument("run_id", metavar="RUN", required=False)
@click.option("--follow", is_flag=True, help="Watch a run until it ends; without RUN the one that is under way.")
@click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(min=0),
    default=5.0,
    show_default=True,
    help="Seconds for which --follow without RUN waits for a run to begin.",
)
@as_json
def show(run_id: str | None, follow: bool, wait_s: float, as_json: bool) -> int:
    """Show all that is kept of a RUN, its truth included.

    With --follow: stage, step, workers, the last error and the faults, redrawn in place on a terminal, else a line for each
    change (with --json an object). Exit code 0: the run was completed. 1: it came to another end. Ctrl-C ends the looking, not
    the run.
    """
    if follow:
        return _follow(run_id, wait_s, as_json)
    if not run_id:
        raise click.UsageError("name a RUN, or --follow the one that is under way")
    _show(run_id, as_json)
    return 0


def _show(run_id: str, as_json: bool) -> None:
    from report.bystanders import told_bystanders
    from report.peers import told_peers
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
    click.echo(f"\nbystanders: {told_bystanders(found['bystanders'])}")
    click.echo(f"peers: {told_peers(found['peers'])}")
    for gap in found["clocks"]:
        click.echo(f"clocks: {gap['told']}")
    for gap in found["outcome"]["gaps"]:
        click.echo(f"not readable: {gap}", err=True)


def _follow(run_id: str | None, wait_s: float, as_json: bool) -> int:
    from flows.live import as_lines, as_objects, in_place
    from tasks.live import Watch, running_run

    watch = Watch(run_id or running_run(wait_s))
    try:
        last = (as_objects if as_json else in_place if sys.stdout.isatty() else as_lines)(watch)
    except KeyboardInterrupt:
        click.echo(f"no longer looking; {watch.paths.run_id} goes on", err=True)
        return 130
    return 0 if last.state == "completed" else 1
