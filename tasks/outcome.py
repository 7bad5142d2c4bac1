"""Say what truly happened in a run, from its own records. Experimenter's side: it opens truth."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from report import outcome as facts
from report.case import Case
from report.sampled import SAMPLED
from storage import schemas
from storage.layout import RunPaths
from storage.manifest import load_manifest
from storage.reader import read_table
from storage.records import Role
from storage.truth import load_history_with_problems, load_plan
from tasks.waiting import last_words

#: The last line of a traceback.
_RAISED = re.compile(r"[\w.]*(?:Error|Exception): ")


def outcome_of(paths: RunPaths) -> dict[str, Any]:
    """The outcome of one run in JSON types.

    Keys: run_id, scenario, arm, seed, profile, place, state, valid, invalid_because, root, first_error, final_error, hop,
    expected, impact, steps_done, steps_planned, gaps. What could not be read is named in ``gaps``; nothing raises for it.
    """
    return open_case(paths, tables=("logs",)).outcome


def open_case(paths: RunPaths, tables: tuple[str, ...] = ("logs", "metrics")) -> Case:
    """Everything the experimenter's side knows of a run. Unknown run id: ValueError; all else missing is a named gap."""
    if not paths.root.is_dir():
        raise ValueError(f"unknown run: {paths.run_id}")
    gaps: list[str] = []
    plan = _attempt(lambda: load_plan(paths), {}, "plan", gaps)
    history, damaged = _attempt(lambda: load_history_with_problems(paths), ([], []), "history", gaps)
    gaps += damaged
    state = _attempt(lambda: load_manifest(paths).state, "unknown", "manifest", gaps)
    score = _attempt(lambda: json.loads(paths.score.read_text()), {}, "score", gaps) if paths.score.exists() else {}
    rows = {table: rows_of(paths, table, gaps) for table in tables}
    if "metrics" in rows:  # most rows of the sampler are for those who query; keeping them would cost ten times the memory
        rows["metrics"] = [row for row in rows["metrics"] if row["step"] >= 0 or row["metric"] in SAMPLED]
    outcome = {
        "run_id": paths.run_id,
        **{key: plan.get(key, "") for key in ("scenario", "arm", "seed", "profile", "place")},
        "state": state,
        **judge(plan, history, rows.get("logs", []), lambda: counted(paths, rows.get("metrics"))),
        "gaps": gaps,
    }
    if not outcome["valid"] and outcome["steps_done"] == 0:
        outcome["invalid_because"] += false_start(paths, outcome["final_error"])
    return Case(paths.run_id, plan, history, outcome, score, **rows)


def judge(
    plan: dict[str, Any],
    history: list[dict[str, Any]],
    logs: list[dict[str, Any]],
    batches: Callable[[], list[dict[str, Any]]] = list,
) -> dict[str, Any]:
    """The facts that follow from plan, history and log rows; `batches` gives the sizes of batches where they are asked for."""
    errors = facts.errors_of(history, logs)
    root, final = facts.root_of(plan, history), facts.final_error(errors)
    done = facts.progress_of(facts.seam_events(history))
    planned = int((plan.get("job") or {}).get("steps", 0))
    survival = facts.survival_of(plan, done, final, batches()) if (plan.get("expected") or {}).get("survives") else {}
    reasons = facts.invalid_because(plan, history) if plan else ["it has no readable plan"]
    return {
        "valid": not reasons,
        "invalid_because": reasons,
        "root": root,
        "first_error": first_error(errors),
        "final_error": final,
        "hop": facts.hop_of(root, final, errors),
        "expected": facts.expected_of(plan, errors, survival),
        "impact": facts.impact_of(done, planned, final, errors),
        "steps_done": done,
        "steps_planned": planned,
    }


def counted(paths: RunPaths, rows: list[dict[str, Any]] | None) -> list[dict[str, Any]]:
    """The batch sizes that the controller told, from `rows` of metrics or, where those were not read, from the table."""
    known = rows_of(paths, "metrics", []) if rows is None else rows
    return [row for row in known if (row["component"], row["metric"]) == (str(Role.CONTROLLER), "batch_samples")]


def false_start(paths: RunPaths, final_error: dict[str, Any] | None) -> list[str]:
    """Why a job did not come to its first step: its error, and the processes whose log ends in an exception of their own."""
    if final_error is None:
        return []
    words = {log.stem: last_words(log) for log in sorted(paths.logs.glob("*.log")) if log.stem != final_error["component"]}
    ended = [f"{component}: {line}" for component, line in words.items() if _RAISED.match(line)]
    return ["; ".join([f"the job failed in {final_error['stage']}: {final_error['text']}", *ended])]


def first_error(errors: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The first error anywhere in the job, its text cut to the telling line."""
    return {**errors[0], "text": facts.headline(errors[0]["text"])} if errors else None


def rows_of(paths: RunPaths, table: str, gaps: list[str]) -> list[dict[str, Any]]:
    """All readable rows of a table by time; unreadable segments and an absent table are named in `gaps`."""
    read, problems = read_table(paths.table(table), schemas.TABLES[table])
    gaps += [f"{table}: {problem}" for problem in problems]
    rows: list[dict[str, Any]] = [row for row in read.to_pylist() if None not in (row["wall_s"], row["component"], row["step"])]
    if not rows:
        gaps.append(f"{table}: no rows")
    return sorted(rows, key=lambda row: float(row["wall_s"]))


def _attempt(load: Any, default: Any, name: str, gaps: list[str]) -> Any:
    """What `load` returns, or `default` with the reason in `gaps`: a torn record is a named gap, not a crash."""
    try:
        return load()
    except (OSError, ValueError, KeyError, TypeError) as error:
        gaps.append(f"{name}: {type(error).__name__}: {error}")
        return default
