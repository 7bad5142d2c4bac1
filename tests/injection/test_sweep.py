"""The sweep: generated scenarios that leave nothing out without a reason, each in a split that its name alone decides."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from injection.draw import resolve, resolve_expected
from injection.scenario import check_scenario
from injection.sweep import DEVELOPMENT, HELD_OUT, left_out, split_of, sweep_cells
from storage.records import FaultKind, Stage

JOB = {"steps": 12, "train_workers": 2, "rollout_workers": 2, "reference_workers": 1}
CELLS = sweep_cells()


def test_each_kind_in_each_stage_is_two_cells_or_has_a_reason() -> None:
    """Kinds x stages x two is what there is and what is left out; every kind but noop has a cell."""
    there = Counter((cell.kind, cell.stage) for cell in CELLS.values())
    missing = Counter((kind, stage) for kind, stage, _ in left_out())
    kinds = set(FaultKind) - {FaultKind.NOOP}
    assert there + missing == Counter({(kind, stage): 2 for kind in kinds for stage in Stage})
    assert {kind for kind, _ in there} == kinds
    assert all(reason for _, _, reason in left_out())


@pytest.mark.parametrize("name", CELLS)
def test_every_cell_is_a_scenario(name: str) -> None:
    """Each passes the checks of a file, draws a rank and a step where there is a choice, and is rooted in its own stage."""
    cell = CELLS[name]
    scenario = check_scenario(cell.scenario(), {(): 1}, Path(name))
    told = [resolve(scenario, JOB, lambda _: 10.0, 2e5, seed, "legacy")[0] for seed in range(20)]
    assert scenario.name == name
    assert {fault["kind"] for fault in told} == {cell.kind}
    assert {resolve(scenario, JOB, lambda _: 10.0, 2e5, seed, "control")[0]["kind"] for seed in range(20)} == {"noop"}
    assert resolve_expected(scenario, told[:1], "legacy")["root"]["stage"] == cell.stage
    assert cell.stage == Stage.CLEANUP or len({str(fault["trigger"]) for fault in told}) > 2


@given(st.sampled_from(sorted(CELLS)))
def test_the_split_follows_from_the_name_alone(name: str) -> None:
    """Anyone can work it out: the first two digits of `sha256sum` of the name are an even number, or an odd one."""
    assert split_of(name) == (HELD_OUT if int(hashlib.sha256(name.encode()).hexdigest()[:2], 16) % 2 else DEVELOPMENT)


def test_both_splits_hold_every_kind_that_has_more_than_a_few_cells() -> None:
    """Neither split is small, and none lacks a kind that has ten cells."""
    for split in (DEVELOPMENT, HELD_OUT):
        kinds = Counter(cell.kind for cell in CELLS.values() if cell.split == split)
        assert sum(kinds.values()) >= len(CELLS) / 3
        many = Counter(cell.kind for cell in CELLS.values())
        assert {kind for kind in many if many[kind] >= 10} <= set(kinds)
