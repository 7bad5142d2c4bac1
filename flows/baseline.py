"""Flow `baseline`: healthy runs of one profile, from which the bands of normal behaviour are made."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.fault_matrix import run_cell
from flows.hooks import close_subflows, undo
from tasks import steps


@flow(
    name="baseline",
    flow_run_name="baseline-{profile}-{seed}",
    on_cancellation=[undo, close_subflows],
    on_crashed=[undo, close_subflows],
    persist_result=True,
    result_serializer="json",
)
def baseline(profile: str = "smoke", repeats: int = 2, seed: int = 17, place: str | None = None) -> list[dict[str, Any]]:
    """Run ``repeats`` healthy runs one after the other, seeds ``seed``, ``seed`` + 1, ...; one result a run."""
    cells = steps.plan_matrix([], [], 0, repeats, seed, profile, place)
    rows = [run_cell(cell, place) for cell in cells]
    steps.publish("baseline", rows)
    return rows
