"""Verb doctor: what this machine allows, and why not the rest."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from flows.printing import as_json, print_json, print_table


@click.command()
@click.option("--serving", is_flag=True, help="Go through the list for serving the policy, its last point being to serve it.")
@as_json
def doctor(as_json: bool, serving: bool) -> None:
    """Say which backends this host allows, and why not the others."""
    rows = _serving() if serving else _backends()
    if as_json:
        print_json(rows)
        return
    print_table(rows, list(rows[0]), "nothing to check")


def _backends() -> list[dict[str, Any]]:
    from diagnosis.environment import rcaeval_missing
    from injection.preflight import Check, checks

    missing = rcaeval_missing()
    methods = Check("rcaeval", not missing, missing or "diagnosers rcaeval-baro, rcaeval-nsigma and rcaeval-circa")
    return [asdict(check) for check in (*checks(), methods)]


def _serving() -> list[dict[str, Any]]:
    from rlhf.config import JobConfig
    from rlhf.serving.checklist import checklist
    from rlhf.serving.config import ServingConfig

    return [asdict(check) for check in checklist(JobConfig(), ServingConfig())]
