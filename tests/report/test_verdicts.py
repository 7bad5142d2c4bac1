"""Diagnosers' answers are counted over the cases that count, with chance and interval."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from report.case import Case
from report.confusion import NO_STAGE, confusion
from report.proportion import Proportion
from report.verdicts import standings, verdict_line, verdicts


def case(*answers: dict[str, Any], valid: bool = True, kind: str = "process-kill", stage: str = "rollout") -> Case:
    faults = [{"id": "f1", "kind": kind}]
    outcome = {"valid": valid, "root": {"stage": stage} if kind != "noop" else None, "impact": "none"}
    return Case("r1", {"faults": faults}, [], outcome, {"verdicts": list(answers)})


def answer(stage: str, *, right: bool, outcome: str = "wrong") -> dict[str, Any]:
    grains = {name: {"ac1": int(right), "chance": {"ac1": 0.125}} for name in ("stage", "joint")}
    top = {"component": "rollout1", "stage": stage, "kind": "process-kill"} if stage else None
    return {"diagnoser": "last-error", "tier": "T0", "outcome": outcome, "grains": grains, "top": top, "reason": ""}


def test_invalid_and_unjudged_cases_do_not_count():
    """An invalid run and an answer the judge failed on count as nothing; a failed diagnoser counts as wrong."""
    cases = [
        case(answer("rollout", right=True, outcome="right")),
        case(answer("", right=False, outcome="failed")),
        case(answer("train", right=False), valid=False),
        case({**answer("train", right=False), "outcome": "unknown", "grains": {}}),
    ]
    (standing,) = standings(cases)
    assert (standing.shares["stage"].right, standing.shares["stage"].n, standing.shares["stage"].chance) == (1, 2, 0.125)
    assert standing.outcomes == {"right": 1, "failed": 1, "unknown": 1}


def test_blame_where_nothing_was_wrong_is_counted_apart():
    """No-fault runs give false blame its own share and stay out of the accuracies."""
    quiet = {"diagnoser": "last-error", "tier": "T0", "outcome": "false-blame", "grains": {}, "top": None}
    (standing,) = standings([case(quiet, kind="noop"), case({**quiet, "outcome": "right"}, kind="noop")])
    assert (standing.alarms.right, standing.alarms.n) == (1, 2) and standing.shares["stage"].n == 0


def test_confusion_counts_each_valid_case_once():
    """Rows are true stages, columns answers, an abstention has a column of its own."""
    cases = [case(answer("train", right=False)), case(answer("rollout", right=True)), case(answer("", right=False))]
    table = confusion(cases, "last-error T0")
    assert table.n == 3 and table.columns[-1] == NO_STAGE and table.stages == ("rollout",)
    assert table.counts == {("rollout", "train"): 1, ("rollout", "rollout"): 1, ("rollout", NO_STAGE): 1}
    assert sum(table.weight("rollout", column) for column in table.columns) == pytest.approx(1.0)


def test_a_score_of_another_shape_counts_as_none():
    """A torn score is no verdict, not a crash."""
    assert verdicts(Case("r1", {}, [], {}, {"verdicts": [None, 3]})) == []
    assert verdict_line([]) == "not diagnosed"


@given(st.integers(0, 60), st.integers(1, 60))
def test_wilson_holds_the_share_and_stays_in_range(right, n):
    """The interval holds the share, lies in [0, 1], and is never a point, not even for 0 or all right."""
    right = min(right, n)
    share = Proportion(right, n)
    assert share.interval is not None and share.share is not None
    low, high = share.interval
    assert 0 <= low <= share.share + 1e-12 and share.share - 1e-12 <= high <= 1 and high - low > 0.01


def test_no_case_is_said_so():
    """A share of no case has no number."""
    assert str(Proportion(0, 0)) == "no case" and str(Proportion(3, 5, 0.12)) == "3/5 [0.23, 0.88], chance 0.12"
