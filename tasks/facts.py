"""What is known of an opened case besides its label: where the error came out, by which chain, and when the fault took hold."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from diagnosis.chain import shortest_chain
from diagnosis.reader import HEAD
from diagnosis.score import Facts
from storage.layout import RunPaths
from storage.records import Label


def facts_of(paths: RunPaths, label: Label, names: dict[str, str], outcome: dict[str, Any], manifest: dict[str, Any]) -> Facts:
    """The facts in neutral names and by the case's clock; what the run's records do not tell is left empty.

    ``label`` is in neutral names, ``names`` maps the job's own to them, ``outcome`` is `tasks.outcome.outcome_of`'s.
    """
    final, root = outcome["final_error"], outcome["root"]
    seen_on = names.get(final["seen_on"], "") if final else ""
    waits = [(pair["waiter"], pair["awaited"]) for pair in manifest["topology"]["waits"]]
    shift = clock_shift(paths.logs, paths.evidence)
    took_hold = root["wall_s"] if label.fault and root else None
    return Facts(
        symptom=(seen_on, str(final["stage"])) if label.fault and seen_on else None,
        chain=shortest_chain(label.component, seen_on, waits) if label.fault and seen_on else (),
        effect=_naive(took_hold) + shift if took_hold is not None and shift is not None else None,
    )


def clock_shift(raw: Path, evidence: Path) -> timedelta | None:
    """By how much the case's clock was shifted: the earliest record there against the earliest raw one.

    Only whole seconds are shifted, so milliseconds must agree; where they do not, the earliest line was dropped: None.
    """
    before, after = _first(raw.glob("*.log")), _first(evidence.glob("t*/*.log"))
    if before is None or after is None or before.microsecond != after.microsecond:
        return None
    return after - before


def _first(logs: Iterable[Path]) -> datetime | None:
    heads = (HEAD.match(line) for log in logs for line in log.read_text(encoding="utf-8", errors="replace").split("\n"))
    times = [match["time"] for match in heads if match]
    return datetime.fromisoformat(min(times)) if times else None


def _naive(wall_s: float) -> datetime:
    """UTC without saying so, as logs have it."""
    return datetime.fromtimestamp(wall_s, UTC).replace(tzinfo=None)
