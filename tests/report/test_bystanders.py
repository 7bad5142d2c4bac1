"""Who was not meant is held against the control arm, and against nothing else where there is one."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from report.bystanders import (
    AS_BEFORE,
    AS_CONTROL,
    CANNOT_TELL,
    NOT_AS_BEFORE,
    NOT_AS_CONTROL,
    Run,
    bystanders,
    in_force,
    told_bystanders,
)

TARGET = {"type": "link", "src": "train0", "dst": "metaserver", "purpose": "weights"}
LINKS = ("train0>metaserver:weights", "train1>metaserver:weights", "metaserver>train0:beat", "controller>train0:rpc")
BEGAN, ENDED, EVERY_S = 100.0, 110.0, 0.25


def run(kind: str, slow: dict[str, float], undone: bool = True) -> Run:
    """Forty seconds of four links and two workers; `slow` says what a link takes while the fault is in force."""
    history: list[dict[str, Any]] = [{"what": "applied", "fault_id": "f1", "mono_s": BEGAN}, {"what": "event", "mono_s": 120.0}]
    if undone:
        history.append({"what": "reverted", "fault_id": "f1", "mono_s": ENDED})
    times = [80 + EVERY_S * number for number in range(160)]
    rows = [
        {"component": link, "metric": "link_rtt_s", "unit": "s", "mono_s": when, "value": 0.001 + hit}
        for when in times
        for link in LINKS
        for hit in [slow.get(link, 0.0) if BEGAN <= when <= ENDED else 0.0]
    ]
    rows += [
        {"component": worker, "metric": "major_faults_per_s", "unit": "1/s", "mono_s": when, "value": slow.get(worker, 0.0)}
        for when in times
        for worker in ("train1", "rollout0")
    ]
    return Run({"faults": [{"id": "f1", "kind": kind, "target": TARGET}]}, history, rows)


@pytest.mark.parametrize("hit", ["train1>metaserver:weights", "controller>train0:rpc"])
def test_a_neighbour_that_is_slowed_too_stands_out(hit: str) -> None:
    """A link beside the target that is late by 40 ms is not as in the control arm; every other one is."""
    found = bystanders(run("network-delay", {hit: 0.04, LINKS[0]: 0.2}), run("noop", {}))
    assert [one.component for one in found if one.verdict == NOT_AS_CONTROL] == [hit]
    assert {one.verdict for one in found if one.component != hit} == {AS_CONTROL}
    told = {(one.component, one.n) for one in found if one.metric == "link_rtt_s"}
    assert told == {("train1>metaserver:weights", 41), ("controller>train0:rpc", 41)}, "what shares both ends is the target"


def test_what_is_slow_without_the_fault_as_well_does_not_stand_out() -> None:
    """The control arm was as slow: then it was not the fault. The run's own time before would have blamed it."""
    both = {"train1>metaserver:weights": 0.04}
    found = bystanders(run("network-delay", both), run("noop", both))
    assert {one.verdict for one in found} == {AS_CONTROL}
    alone = bystanders(run("network-delay", both), None)
    assert [one.component for one in alone if one.verdict == NOT_AS_BEFORE] == list(both)
    assert {one.verdict for one in alone} == {AS_BEFORE, NOT_AS_BEFORE}


def test_milliseconds_are_the_machines() -> None:
    """A few milliseconds more say nothing about the fault: both ends of a link wait for a core."""
    found = bystanders(run("network-delay", {"train1>metaserver:weights": 0.005}), run("noop", {}))
    assert {one.verdict for one in found} == {AS_CONTROL}


def test_nothing_read_is_nothing_said() -> None:
    """Without readings during the fault it cannot be told, and of a run without a fault there is nothing to tell."""
    one, control = run("network-delay", {}), run("noop", {})
    early = [row for row in one.rows if row["mono_s"] < BEGAN]
    assert {found.verdict for found in bystanders(Run(one.plan, one.history, early), control)} == {CANNOT_TELL}
    assert bystanders(control, control) == []
    never = Run(one.plan, [], one.rows)
    assert bystanders(never, control) == [] and in_force(never) is None
    assert in_force(run("network-delay", {}, undone=False)) == (BEGAN, 120.0)


def test_the_line_says_against_what() -> None:
    """Who reads it sees whether there was a control arm, and the figures that stand out."""
    hit = {"train1>metaserver:weights": 0.04}
    against = {"against": "r7", "figures": [asdict(one) for one in bystanders(run("network-delay", hit), run("noop", {}))]}
    assert "held against r7; train1>metaserver:weights link_rtt_s 0.041 s" in told_bystanders(against)
    own = {"against": "", "figures": [asdict(one) for one in bystanders(run("network-delay", {}), None)]}
    assert told_bystanders(own).endswith("of its own: there is no control arm of this seed")
