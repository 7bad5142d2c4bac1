"""The guarded door to a run's truth: plan, label, salt, history, neutral names. Its readers are named in pyproject.toml.

Every file is 0600 in a 0700 folder. A missing file raises FileNotFoundError; a damaged one ValueError naming the file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from storage.atomic import write_atomic
from storage.jsonlines import read_json_lines
from storage.layout import RunPaths
from storage.records import Label, to_dict

PRIVATE = 0o600


def save_plan(paths: RunPaths, plan: dict[str, Any]) -> None:
    """Write the resolved plan (docs/architecture.md, "Plan")."""
    _save(paths.plan, plan)


def load_plan(paths: RunPaths) -> dict[str, Any]:
    """The resolved plan."""
    return _load(paths.plan)


def save_carrier(paths: RunPaths, who: dict[str, int]) -> None:
    """Write which process of this machine carries the run: pid and start_ticks."""
    _save(paths.carrier, who)


def load_carrier(paths: RunPaths) -> dict[str, Any]:
    """The same; empty for a run that does not say it."""
    return _load(paths.carrier) if paths.carrier.exists() else {}


def save_markers(paths: RunPaths, markers: list[dict[str, Any]]) -> None:
    """Write when each fault was in force (`tasks.markers`)."""
    _save(paths.markers, markers)


def save_label(paths: RunPaths, label: Label) -> None:
    """Write the answer of the case."""
    _save(paths.label, to_dict(label))


def load_label(paths: RunPaths) -> Label:
    """The answer of the case."""
    data = _load(paths.label)
    try:
        return Label(**{**data, "kinds": tuple(data["kinds"])})
    except (TypeError, KeyError) as error:
        raise ValueError(f"{paths.label.name} is not a label: {error}") from error


def save_impact(paths: RunPaths, impact: str) -> None:
    """Write what the fault did to the job (`report.impact`)."""
    _save(paths.impact, {"impact": impact})


def load_impact(paths: RunPaths) -> str:
    """The same; empty where nobody has looked."""
    return str(_load(paths.impact)["impact"]) if paths.impact.exists() else ""


def save_salt(paths: RunPaths, salt: str) -> None:
    """Write the salt of the commitment, hexadecimal."""
    write_atomic(paths.salt, bytes.fromhex(salt).hex().encode() + b"\n", PRIVATE)


def load_salt(paths: RunPaths) -> str:
    """The salt of the commitment, hexadecimal."""
    return paths.salt.read_text().strip()


def save_names(paths: RunPaths, names: dict[str, str]) -> None:
    """Write the neutral name of each component in this case."""
    _save(paths.neutral_names, names)


def load_names(paths: RunPaths) -> dict[str, str]:
    """Component -> neutral name."""
    return _load(paths.neutral_names)


def load_history(paths: RunPaths) -> list[dict[str, Any]]:
    """What the injector saw and did, in order; damaged lines are left out (`load_history_with_problems` names them).

    No history yet is an empty list.
    """
    return load_history_with_problems(paths)[0]


def load_history_with_problems(paths: RunPaths) -> tuple[list[dict[str, Any]], list[str]]:
    """The history, and one sentence for each damaged line."""
    return read_json_lines(paths.history) if paths.history.exists() else ([], [])


def _save(path: Path, value: Any) -> None:
    write_atomic(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode(), PRIVATE)


def _load(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} is damaged: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path.name} is damaged: not a JSON object")  # noqa: TRY004 - wrong data, not a wrong call
    return value
