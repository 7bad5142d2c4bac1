"""Several faults on one link: what they do together, and that a proof neither is misled by the others nor borrows from them."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from injection.company import Company, Treatment
from injection.fault import Context, Measurement
from injection.link_proof import MOST, enough, passes, steadily
from injection.registry import make_fault
from injection.target import LiveLink
from tests.injection.test_network_faults import LINK, Cluster
from tests.injection.victim import Seam, plan_fault, wait_until

RPC = LiveLink("a>b:rpc", "near", "10.0.0.1", "far", "10.0.0.2", 7001)
PARTS = st.floats(0, 1)
TREATMENTS = st.builds(Treatment, PARTS, st.floats(1, 50), st.floats(0, 5), st.floats(5, 10), st.sampled_from([0.0, 1e3, 1e5]))


def near(one: Treatment, other: Treatment) -> bool:
    return all(
        getattr(one, name) == pytest.approx(getattr(other, name), abs=1e-9)
        for name in ("loss_ratio", "burst_packets", "shortest_s", "longest_s")
    )


@given(TREATMENTS, TREATMENTS, TREATMENTS)
def test_treatments_compose_whatever_the_order(one: Treatment, two: Treatment, three: Treatment) -> None:
    """What passes must pass all, and is late by all: 1-(1-p)(1-q), sums; nothing beside one changes it; a cut stays a cut."""
    both = one.beside(two)
    assert both.loss_ratio == pytest.approx(1 - (1 - one.loss_ratio) * (1 - two.loss_ratio))
    assert max(one.loss_ratio, two.loss_ratio) - 1e-12 <= both.loss_ratio <= 1
    assert both.shortest_s == one.shortest_s + two.shortest_s and both.longest_s == one.longest_s + two.longest_s
    assert near(both, two.beside(one)) and near(both.beside(three), one.beside(two.beside(three)))
    assert near(one.beside(Treatment()), one) and near(one, Treatment().beside(one))
    assert one.beside(Treatment(loss_ratio=1.0)).cuts and Treatment(loss_ratio=1.0).beside(one).cuts


@given(st.floats(0, 0.99), st.floats(1, 20))
def test_so_many_are_sent_that_one_comes_through(part: float, burst: float) -> None:
    """All of them lost by chance alone is rarer than one in a million, where losses are independent."""
    count = enough(Treatment(part, burst))
    assert part == 0 or part ** (count / burst) <= 1.01e-6 or count > MOST


class World:
    """A link on which some faults are really in force, and a probe that sees what those do, by chance and by sum."""

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed)
        self.real: dict[str, Treatment] = {}

    def ask(self, name: str, asked: dict[str, Any]) -> dict[str, Any]:
        if name == "packet_rules":
            return {"process_alive": asked["table"] in self.real, "tables_count": int(asked["table"] in self.real)}
        came = []
        for _ in range(asked["count"]):
            late = sum(self._draw.uniform(one.shortest_s, one.longest_s) for one in self.real.values())
            lost = any(self._draw.random() < one.loss_ratio for one in self.real.values())
            if not lost and late <= asked["wait_s"]:
                came.append(late)
        figures = {"sent_count": asked["count"], "received_count": len(came)}
        return figures | ({"least_ms": 1000 * min(came)} if came else {})


class Stands:
    """The means of a fault, which is known by the name of its table."""

    def __init__(self, name: str) -> None:
        self._name = name

    def undo(self) -> dict[str, Any]:
        return {"means": "packets", "process": [0, 0], "table": self._name, "hosts": []}


LOSSES = st.builds(lambda part: ("network-loss", {"loss_ratio": part}), st.floats(0.02, 1))
DELAYS = st.builds(
    lambda ms, part: ("network-delay", {"delay_ms": ms, "jitter_ms": part * ms}), st.floats(1, 3000), st.floats(0, 0.5)
)
CUTS = st.just(("network-partition", {}))
SEVERAL = st.lists(st.one_of(LOSSES, DELAYS, CUTS), min_size=1, max_size=4)


def proofs(faults: list[tuple[str, dict[str, Any]]], missing: int, seed: int) -> list[Measurement]:
    """What is proved of each where all were applied, and one of them (a place in the list; -1 none) did not take effect."""
    world, company, made = World(seed), Company(), []
    for place, (kind, params) in enumerate(faults):
        name = f"f{place}"
        fault: Any = make_fault(
            kind, {**params, "direction": "forward"}, Context(RPC, "nfqueue", world.ask, name=name, company=company)
        )
        fault._hand = Stands(name)
        with company.joining(name, RPC, fault.does()):
            if place != missing:
                world.real[name] = fault.does()["forward"]
        made.append(fault)
    return [fault.verify() for fault in made]


@settings(max_examples=50)
@given(SEVERAL, st.integers(0, 1 << 30))
def test_each_of_several_is_proved(faults: list[tuple[str, dict[str, Any]]], seed: int) -> None:
    """Whatever losses, delays and cuts are in force together on one link: every one of them is proved."""
    assert [found for found in proofs(faults, -1, seed) if not found.ok] == []


@settings(max_examples=50)
@given(SEVERAL, st.data())
def test_none_borrows_its_proof_from_the_others(faults: list[tuple[str, dict[str, Any]]], data: st.DataObject) -> None:
    """A fault that did not take effect is not proved by what the others do, not even where they would hide it."""
    missing = data.draw(st.integers(0, len(faults) - 1))
    assert not proofs(faults, missing, data.draw(st.integers(0, 1 << 30)))[missing].ok


def test_company_is_of_one_link_and_one_direction() -> None:
    """Links that share addresses and port are one; another port or direction is another matter; who left is no company."""
    company, other = Company(), LiveLink("a>b:weights", "near", "10.0.0.1", "far", "10.0.0.2", 8080)
    cut: Mapping[str, Treatment] = {"forward": Treatment(loss_ratio=1.0)}
    with company.joining("f1", RPC, cut):
        assert not company.others("f2", RPC, "forward").cuts
    assert company.others("f2", RPC, "forward").cuts and "f1" in company
    assert company.others("f1", RPC, "forward") == company.others("f2", RPC, "backward") == Treatment()
    assert company.others("f2", other, "forward") == Treatment()
    with company.leaving("f1"), company.leaving("nobody"):
        pass
    assert company.others("f2", RPC, "forward") == Treatment() and "f1" not in company


def test_each_comes_behind_those_that_are_there() -> None:
    """Places count up while a link is in use, whoever leaves; a free link begins anew; links do not count for one another."""
    company, seen, elsewhere = Company(), [], LiveLink("a>b:weights", "near", "10.0.0.1", "far", "10.0.0.2", 8080)

    def join(name: str, link: LiveLink = RPC) -> None:
        with company.joining(name, link, {"forward": Treatment()}):
            seen.append(company.place(name))

    def leave(name: str) -> None:
        with company.leaving(name):
            pass

    join("f1")
    join("f2")
    join("f3", elsewhere)
    leave("f1")
    join("f1")
    leave("f1")
    leave("f2")
    join("f2")
    assert seen == [0, 1, 0, 2, 0]


def test_of_several_rates_the_last_applied_counts() -> None:
    """Behind the one that came later stands the earlier; when that goes, it counts again."""
    company = Company()
    for name, rate in (("f1", 1e5), ("f2", 1e4), ("f3", 1e6)):
        with company.joining(name, RPC, {"forward": Treatment(rate_bytes_per_s=rate)}):
            pass
    assert [company.later(name, RPC, "forward").rate_bytes_per_s for name in ("f1", "f2", "f3", "f4")] == [1e6, 1e6, 0, 0]
    with company.leaving("f3"):
        pass
    assert [company.later(name, RPC, "forward").rate_bytes_per_s for name in ("f1", "f2")] == [1e4, 0]


def test_what_was_measured_while_others_changed_is_measured_again() -> None:
    """One that was applied in the middle of a measurement makes it be repeated; what did not change is measured once."""
    company, seen = Company(), []
    ctx = Context(RPC, "nfqueue", lambda *_: {}, name="f1", company=company)
    with company.joining("f1", RPC, {"forward": Treatment(shortest_s=1.0)}):
        pass

    def measure() -> Measurement:
        seen.append(company.others("f1", RPC, "forward").loss_ratio)
        if len(seen) == 1:
            with company.joining("f2", RPC, {"forward": Treatment(loss_ratio=0.5)}):
                pass
        return Measurement(ok=len(seen) == 2, probe="", measured={})

    assert steadily(ctx, measure).ok and seen == [0.0, 0.5]


def test_what_others_hide_is_no_reason_to_refuse() -> None:
    """Where a cut of another fault lets nothing pass, a loss may be armed; where nobody says why, it may not."""
    company = Company()
    nothing = Context(RPC, "nfqueue", lambda _, asked: {"received_count": 0}, name="f2", company=company)
    with company.joining("f1", RPC, {"forward": Treatment(loss_ratio=1.0)}):
        pass
    passes(nothing, "forward")
    with pytest.raises(Exception, match="lets nothing pass backward even before"):
        passes(nothing, "both")


@pytest.mark.job
def test_several_on_one_link_are_each_proved(scratch: Path) -> None:
    """Virtual cluster, one boundary: two delays and two losses are each proved; a cut besides, and a delay that it hides."""
    late, lossy = {"delay_ms": 40.0}, {"loss_ratio": 0.2, "direction": "both"}
    trigger = {"step": 4, "stage": "train", "when": "enter"}
    faults = [
        plan_fault("network-delay", late, id="f1", target=LINK),
        plan_fault("network-delay", {"delay_ms": 15.0, "jitter_ms": 5.0}, id="f2", target=LINK),
        plan_fault("network-loss", lossy, id="f3", target=LINK),
        plan_fault("network-loss", {"loss_ratio": 0.3, "burst_packets": 3.0}, id="f4", target=LINK),
        plan_fault("network-partition", {}, id="f5", target=LINK, trigger=trigger),
        plan_fault("network-delay", late, id="f6", target=LINK, trigger=trigger),
    ]
    cluster = Cluster(scratch, *faults)
    try:
        seam, lab = Seam(cluster.lab.seam), cluster.lab
        for step, proved in ((3, 4), (4, 6)):
            seam.reach("train", step)
            wait_until(lambda proved=proved: len(lab.history("verified")) == proved, f"all are proved: {lab.history()}", 120)
        assert not lab.history("invalid"), "\n".join(line["reason"] for line in lab.history("invalid"))
        found = {line["fault_id"]: line["receipt"]["measured"] for line in lab.history("verified")}
        assert found["f1"]["forward_least_ms"] >= 40 + 10 - 1
        assert found["f3"]["forward_expected_loss_ratio"] == found["f4"]["forward_expected_loss_ratio"] == 0.44
        assert found["f3"]["backward_expected_loss_ratio"] == 0.2
        assert found["f6"]["hidden_by_others"] and found["f6"]["stands"] and found["f6"]["forward_received_count"] == 0
        cluster.injector.signal(15)
        assert cluster.injector.wait(90) == 0
        assert [line["ok"] for line in lab.history("gone")] == [True] * 6
        seam.close()
    finally:
        cluster.place.close()
