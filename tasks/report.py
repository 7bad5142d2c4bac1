"""Write the self-contained page of a set of runs; make its result table."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from report.page import render
from report.tables import markdown_table, result_rows, text_table
from storage.atomic import write_atomic
from storage.clocks import clock_gaps
from storage.layout import reports_dir, run_paths
from tasks.compare import bands_of, compare_cases, known_cases
from tasks.outcome import open_case

__all__ = ["markdown_table", "result_table", "text_table", "write_report"]


def write_report(run_ids: Sequence[str], name: str, baseline_ids: Sequence[str] | None = None) -> Path:
    """Write the page of `run_ids` and return its path; a page of that name is replaced. Baselines as in `compare_runs`.

    ValueError names a run that does not exist or a name that is no file name. Whatever a run lacks is named on the page.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise ValueError(f"not a report name: {name!r}; letters, digits, '.', '_' and '-' only")
    cases = [open_case(run_paths(run_id)) for run_id in dict.fromkeys(run_ids)]
    known = known_cases(cases)
    comparison = compare_cases(cases, known, baseline_ids)
    made = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    path = reports_dir() / f"{name}.html"
    clocks = [gap.told() for gap in clock_gaps([case.run_id for case in cases])]
    page = render(name, cases, comparison, bands_of(comparison, cases), made, clocks)
    write_atomic(path, page.encode("utf-8", "replace"))
    return path


def result_table(run_ids: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each run, values text, keys those of `report.tables.COLUMNS` and ``run_id``."""
    return result_rows([open_case(run_paths(run_id), tables=("logs",)) for run_id in dict.fromkeys(run_ids)])
