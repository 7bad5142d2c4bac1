"""Say in one line what came of a run."""

from __future__ import annotations

from typing import Any


def describe(outcome: dict[str, Any]) -> str:
    """One line from a run's outcome (see `tasks.outcome.outcome_of`)."""
    if not outcome["valid"]:
        return f"invalid: {'; '.join(outcome['invalid_because'])}"
    final, root = outcome["final_error"], outcome["root"]
    if not final:
        return f"no error in {outcome['steps_done']} steps"
    error = f"error in {final['stage'] or 'an unknown stage'} on {final['component']}"
    return f"{root['stage']} on {root['component']} -> {error}" if root else error
