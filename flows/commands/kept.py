"""Verbs about what is kept: query, indicators, gc, export, import."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from flows.printing import as_json, print_json, print_table


@click.command()
@click.argument("sql", metavar="SQL")
@click.option("--run", "run_ids", multiple=True, metavar="RUN", help="Of these runs only; may be given often.  [default: all]")
@as_json
def query(sql: str, run_ids: tuple[str, ...], as_json: bool) -> None:
    """Answer one SQL statement over the tables of all runs: runs, events, metrics, logs, injections, summaries.

    The columns are in docs/tables.md, examples in docs/querying.md. It opens truth.
    """
    from storage.catalogue import query as answer_to

    answer = answer_to(sql, list(run_ids) or None)
    if as_json:
        print_json({"columns": answer.columns, "rows": answer.dicts(), "problems": answer.problems})
        return
    print_table([_short(row) for row in answer.dicts()], list(answer.columns), "no rows")
    for problem in answer.problems:
        click.echo(f"left out: {problem}", err=True)


@click.command()
@click.argument("scenario")
@click.option("--arm", default="legacy", show_default=True, help="Whose faulty runs.")
@click.option("--sql", "sql_only", is_flag=True, help="Print the query instead of its answer.")
@as_json
def indicators(scenario: str, arm: str, sql_only: bool, as_json: bool) -> None:
    """Fill the plan's table of a SCENARIO from all its valid runs: healthy, and since the fault, target and peers."""
    from storage.indicators import plan_table, plan_table_sql

    if sql_only:
        click.echo(plan_table_sql(scenario))
        return
    answer = plan_table(scenario, arm)
    if as_json:
        print_json({"columns": answer.columns, "rows": answer.dicts(), "problems": answer.problems})
        return
    print_table([_short(row) for row in answer.dicts()], list(answer.columns), "no rows")
    for problem in answer.problems:
        click.echo(f"left out: {problem}", err=True)


@click.command()
@click.option("--keep", default="", metavar="N|DAYSd", help="Remove finished runs but the newest N, or of the last days (30d).")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@as_json
def gc(keep: str, dry_run: bool, as_json: bool) -> None:
    """Make finished runs small; with --keep, remove those past keeping. A running one is never touched."""
    from storage.retention import collect_garbage

    rows = [asdict(one) for one in collect_garbage(keep, dry_run=dry_run)]
    if as_json:
        print_json(rows)
        return
    print_table(rows, ["run_id", "done", "bytes_before", "bytes_after"], "no runs")
    if dry_run:
        click.echo("nothing was changed: --dry-run")
    for row in rows:
        for problem in row["problems"]:
            click.echo(f"{row['run_id']}: {problem}", err=True)


@click.command("export")
@click.argument("run_ids", metavar="RUN...", nargs=-1, required=True)
@click.argument("target", metavar="FILE|FOLDER|URI")
@click.option(
    "--format",
    "form",
    type=click.Choice(["archive", "rcaeval"]),
    default="archive",
    show_default=True,
    help="One file with checksums for one RUN, or cases of RCAEval's layout in FOLDER for any number of revealed ones.",
)
@as_json
def export_command(run_ids: tuple[str, ...], target: str, form: str, as_json: bool) -> None:
    """Write a finished RUN, truth included, as one file with checksums; or revealed RUNs as cases of RCAEval's layout."""
    if form == "rcaeval":
        _export_cases(run_ids, target, as_json)
        return
    from storage.archive import export_run

    if len(run_ids) != 1:
        raise click.UsageError("an archive is of one RUN")
    found = export_run(run_ids[0], target)
    if as_json:
        print_json(found)
        return
    click.echo(f"{found['archive']}: {found['files']} files, {found['bytes']} bytes\nfingerprint {found['fingerprint']}")
    for name in found["left_out"]:
        click.echo(f"left out, no plain file: {name}", err=True)


def _export_cases(run_ids: tuple[str, ...], folder: str, as_json: bool) -> None:
    from storage.catalogue import open_run
    from storage.layout import run_paths
    from tasks.export import export_rcaeval

    if "://" in folder:
        raise click.UsageError("cases are written into a folder of this machine")
    rows = [export_rcaeval(run_paths(open_run(run_id).run_id), Path(folder)) for run_id in run_ids]
    if as_json:
        print_json(rows)
    else:
        print_table(rows, ["run_id", "rows", "columns", "inject_time", "case"], "")


@click.command("import")
@click.argument("source", metavar="FILE|URI")
@click.option("--fingerprint", default="", help="Refuse an archive of another fingerprint than this.")
@as_json
def import_command(source: str, fingerprint: str, as_json: bool) -> None:
    """Bring an exported run into this home, whole or not at all."""
    from storage.archive import import_run

    found = import_run(source, fingerprint)
    if as_json:
        print_json(found)
        return
    click.echo(f"{found['run_id']}: {found['files']} files, {found['bytes']} bytes\nfingerprint {found['fingerprint']}")


def _short(row: dict[str, Any]) -> dict[str, Any]:
    """Numbers to six digits, so that a table of them can be read; --json has all."""
    return {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items()}
