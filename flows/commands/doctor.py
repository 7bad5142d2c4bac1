"""Verb doctor: what this machine allows, and why not the rest."""

from __future__ import annotations

from dataclasses import asdict

import click

from flows.printing import as_json, print_json, print_table


@click.command()
@as_json
def doctor(as_json: bool) -> None:
    """Say which backends this host allows, and why not the others."""
    from injection.preflight import checks

    rows = [asdict(check) for check in checks()]
    if as_json:
        print_json(rows)
        return
    print_table(rows, list(rows[0]), "nothing to check")
