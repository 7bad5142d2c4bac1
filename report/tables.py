"""The result table: one row a run, as rows, as text for a terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from report.case import Case
from report.outcome import headline
from report.verdicts import NOT_DIAGNOSED, verdict_line, verdicts

Row = dict[str, Any]

#: Column key and title, in order. `run_id` is a key of every row, too.
COLUMNS = {
    "cell": "cell",
    "valid": "valid",
    "root": "root",
    "error": "error",
    "step": "step",
    "first_error": "first error",
    "expected": "as expected",
    "impact": "impact",
    "diagnosed": "diagnosed",
}


def result_rows(cases: Sequence[Case]) -> list[Row]:
    """A row for each run, all values text: what was done, what came of it, who found it."""
    return [result_row(case) for case in cases]


def result_row(case: Case) -> Row:
    """One row. Empty text where there is nothing to say; "no: <reason>" for an invalid run."""
    outcome = case.outcome
    root, final, first, expected = (outcome[key] for key in ("root", "final_error", "first_error", "expected"))
    return {
        "run_id": case.run_id,
        "cell": case.name,
        "valid": "yes" if outcome["valid"] else _cut("no: " + "; ".join(outcome["invalid_because"]), 110),
        "root": f"{root['stage']} on {root['component']}" if root else "no fault",
        "error": f"{final['stage'] or 'unknown stage'} on {final['seen_on']}" if final else "no error",
        "step": _step(root, final),
        "first_error": f"{first['component']}: {headline(first['text'], 120)}" if first else "",
        "expected": "" if expected is None else "yes" if expected["came_true"] else "no",
        "impact": f"{outcome['impact']} ({outcome['steps_done']}/{outcome['steps_planned']} steps)",
        "diagnosed": verdict_line(verdicts(case)),
    }


def _step(root: Row | None, final: Row | None) -> str:
    start, end = (str(place["step"]) if place and place["step"] >= 0 else "" for place in (root, final))
    return f"{start} -> {end}" if start and end and start != end else start or end


def text_table(rows: Sequence[Row]) -> str:
    """For a terminal: a line a run, and below it, indented, why it does not count, its first error, and who found it."""
    heads = ("cell", "valid", "root -> error", "step", "as expected", "impact")
    cells = [heads, *(_short(row) for row in rows)]
    widths = [max(len(line[index]) for line in cells) for index in range(len(heads))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    told = [line for row, text in zip(rows, lines[1:], strict=True) for line in (text, *_details(row))]
    return "\n".join([lines[0], "-" * (sum(widths) + 2 * (len(heads) - 1)), *told])


def _short(row: Row) -> tuple[str, ...]:
    route = row["root"] if row["root"] == row["error"] else f"{row['root']} -> {row['error']}"
    return (_cut(row["cell"], 44), row["valid"].split(":")[0], _cut(route, 64), row["step"], row["expected"], row["impact"])


def _details(row: Row) -> list[str]:
    shown = {
        "invalid": row["valid"].partition(": ")[2],
        "first error": row["first_error"],
        "diagnosed": "" if row["diagnosed"] == NOT_DIAGNOSED else row["diagnosed"],
    }
    return [f"    {name}: {_cut(text, 116)}" for name, text in shown.items() if text]


def markdown_table(rows: Sequence[Row]) -> str:
    """A Markdown table; text of the job cannot break out of its cell."""
    head = "| " + " | ".join(COLUMNS.values()) + " |"
    rule = "|" + " --- |" * len(COLUMNS)
    body = ["| " + " | ".join(_cell(str(row.get(key, ""))) for key in COLUMNS) + " |" for row in rows]
    return "\n".join([head, rule, *body])


def _cell(text: str) -> str:
    line = " ".join(text.split())
    for char in "\\`*_[]|":
        line = line.replace(char, f"\\{char}")
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _cut(text: str, limit: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
