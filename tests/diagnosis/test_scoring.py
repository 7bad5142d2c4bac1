"""Each statistic against an example worked by hand or published."""

import random
from datetime import datetime
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diagnosis.calibration import calibration, expected_error
from diagnosis.chain import chain_f1, shortest_chain
from diagnosis.chance import chance_at, chance_average
from diagnosis.intervals import clustered, wilson
from diagnosis.pairs import compared, holm, mcnemar, signed_rank, with_holm
from diagnosis.score import Facts, judge
from diagnosis.summary import summarise
from diagnosis.survival import time_to_diagnose
from diagnosis.vocabulary import Vocabulary
from storage.records import Cause, Diagnosis, Label

ROLES = {"w-0": "controller", "w-1": "train", "w-2": "train", "w-3": "rollout", "w-4": "rollout", "w-5": "metaserver"}
HOSTS = {"w-0": "n-0", "w-1": "n-1", "w-2": "n-1", "w-3": "n-2", "w-4": "n-2", "w-5": "n-0"}
WORDS = Vocabulary("case", ROLES, hosts=HOSTS)
LABEL = Label(fault=True, component="w-1", stage="weights_update", kinds=("network-bandwidth",), peer="w-5", step=3)
FACTS = Facts(("w-3", "rollout"), ("w-1", "w-3", "w-0"), datetime(2000, 1, 1, 12, 0, 5))


def said(component: str, stage: str, **further: object) -> Diagnosis:
    return Diagnosis(fault=True, ranked=(Cause(component, stage, "network-bandwidth"),), **further)


def test_average_of_chance() -> None:
    """RCAEval's floor: of 6 services guessing has Avg@5 = 0.5, of 49 workers 0.06."""
    assert chance_average(5, 6, 1) == pytest.approx(0.5)
    assert chance_average(5, 49, 1) == pytest.approx(0.061, abs=0.001)
    assert chance_average(1, 7, 2) == chance_at(1, 7, 2)


def test_a_verdict_tells_host_chain_alarm_and_bias() -> None:
    """A wrong worker of the right host, halfway along the chain, three seconds late, at the stage of the symptom."""
    answer = said("w-2", "rollout", chain=("w-1", "w-3"), alarm="2000-01-01 12:00:08.000", confidence=0.7)
    verdict = judge(answer, LABEL, WORDS, FACTS)
    assert (verdict["grains"]["host"]["ac1"], verdict["grains"]["component"]["ac1"]) == (1, 0)
    assert verdict["misled"] == {"component": False, "stage": True}
    assert verdict["chain_f1"] == pytest.approx(2 * 2 / (2 + 3)) and verdict["grounded"] is False
    assert (verdict["detect_s"], verdict["hops"], verdict["confidence"]) == (3.0, 2, 0.7)
    right = judge(said("w-1", "weights_update", chain=("w-1", "w-3", "w-0")), LABEL, WORDS, FACTS)
    assert right["grounded"] is True and right["misled"] == {"component": None, "stage": None}


def test_what_a_case_does_not_tell_is_none() -> None:
    """Without facts, and for an abstention, nothing is measured: None, never zero."""
    bare = judge(said("w-2", "rollout", chain=("w-1",), alarm="2000-01-01 12:00:08.000"), LABEL, WORDS)
    silent = judge(Diagnosis(fault=False, ranked=(), abstain=True), LABEL, WORDS, FACTS)
    for verdict in (bare, silent):
        assert (verdict["chain_f1"], verdict["detect_s"], verdict["grounded"]) == (None, None, None)


WAITS = [("c", "r"), ("c", "t"), ("r", "t"), ("r", "m"), ("t", "m"), ("c", "m")]


def test_shortest_chain_follows_who_waits() -> None:
    """From the metaserver to the controller in one hop, though longer ways exist; nobody waits for the controller."""
    assert shortest_chain("m", "c", WAITS) == ("m", "c")
    assert shortest_chain("m", "c", [pair for pair in WAITS if pair != ("c", "m")]) == ("m", "r", "c")
    assert shortest_chain("t", "t", WAITS) == ("t",)
    assert shortest_chain("c", "m", WAITS) == ()


@given(st.permutations("abcd"), st.permutations("abcd"))
def test_chain_f1_is_one_for_equal_chains_alone(told: list[str], true: list[str]) -> None:
    """F1 lies in [0, 1], is symmetric, and is 1 exactly when the chains are the same."""
    f1 = chain_f1(told, true)
    assert 0 <= f1 <= 1 and f1 == chain_f1(true, told)
    assert (f1 == 1) == (told == true)


def test_clustered_interval_is_wider_when_repeats_agree() -> None:
    """Ten repeats of each of six scenarios, all alike: the interval is that of six cases, not of sixty."""
    values = [float(scenario % 2) for scenario in range(6) for _ in range(10)]
    low, high = clustered(values, [scenario for scenario in range(6) for _ in range(10)])
    # Means of six fair coins: below 1/6 and above 5/6 lie 1/64 = 1.6 % each, so these are the 2.5 % quantiles.
    assert (low, high) == (pytest.approx(1 / 6), pytest.approx(5 / 6))
    naive = wilson(30, 60)
    assert high - low > 2 * (naive[1] - naive[0])
    assert clustered([1.0, 0.0], ["a", "a"]) is None


def test_mcnemar_against_the_binomial_by_hand() -> None:
    """One to nine discordant cases: two-sided exact p = 2 * (1 + 10) / 2^10; without discordance 1."""
    first, second = [True] + [False] * 9 + [True] * 5, [False] + [True] * 9 + [True] * 5
    assert mcnemar(first, second) == pytest.approx(22 / 1024)
    assert mcnemar(first, first) == 1.0


def test_signed_rank_against_wilcoxon_1945() -> None:
    """Cushny and Peebles' ten patients, as Student and Wilcoxon tell them: nine gains, one tie, two-sided p = 2/2^9."""
    first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    exact = [pair for pair in zip(first, second, strict=True) if pair[0] != pair[1]]
    assert signed_rank(*zip(*exact, strict=True)) == pytest.approx(2 / 512, abs=1e-9)
    assert signed_rank(first, first) == 1.0


def test_holm_against_a_worked_example() -> None:
    """p of 0.01, 0.04, 0.03, 0.005 become 0.03, 0.06, 0.06, 0.02."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9))
def test_holm_never_helps_and_keeps_the_order(p: list[float]) -> None:
    """Adjusted values are at least the raw ones, at most 1, and sorted as they are."""
    adjusted = holm(p)
    assert all(a >= raw and a <= 1 for a, raw in zip(adjusted, p, strict=True))
    order = sorted(range(len(p)), key=p.__getitem__)
    assert all(adjusted[i] <= adjusted[j] for i, j in pairwise(order))


def test_a_comparison_is_paired() -> None:
    """Ten cases of two scenarios: the difference of shares, its clustered interval, and the exact p."""
    cases = [("a", True, False)] * 4 + [("a", True, True)] + [("b", True, False)] * 2 + [("b", False, False)] * 3
    [found] = with_holm([compared(("ours", "theirs"), cases)])
    assert (found["n"], found["only_first"], found["only_second"]) == (10, 6, 0)
    assert found["difference"] == pytest.approx(0.6) and found["interval"] == (pytest.approx(0.4), pytest.approx(0.8))
    assert found["p"] == found["p_holm"] == pytest.approx(2 / 64)


def test_kaplan_meier_against_freireich_1963() -> None:
    """The 6-MP arm of Freireich's leukaemia trial: median 23 weeks, 35 weeks' restricted mean 23.287."""
    relapsed = [6, 6, 6, 7, 10, 13, 16, 22, 23]
    censored = [6, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35]
    found = time_to_diagnose(relapsed + censored, [True] * 9 + [False] * 12, 35)
    assert (found["n"], found["right"], found["median_s"]) == (21, 9, 23)
    assert found["restricted_mean_s"] == pytest.approx(23.287, abs=0.001)
    assert found["penalised_mean_s"] == pytest.approx((sum(relapsed) + 12 * 35) / 21)


def test_time_to_diagnose_when_nobody_was_right() -> None:
    """No right answer: no median, and both means are the budget."""
    found = time_to_diagnose([1.0, 2.0, 3.0], [False] * 3, 30)
    assert found["median_s"] is None
    assert found["restricted_mean_s"] == found["penalised_mean_s"] == pytest.approx(30)
    assert time_to_diagnose([], [], 30)["restricted_mean_s"] is None


def test_calibration_by_hand() -> None:
    """Brier of 0.8 (right), 0.6 (wrong) is 0.2; risks along coverage 0 and 1/2 average to 1/4; bins only from 50 on."""
    found = calibration([0.8, 0.6], [True, False])
    assert (found["n"], found["ece"]) == (2, None)
    assert (found["brier"], found["aurc"]) == (pytest.approx(0.2), pytest.approx(0.25))
    # Five bins of ten: confidences 0.1, 0.3, 0.5, 0.7, 0.9, of which 0, 3, 5, 7, 6 are right: gaps 0.1, 0, 0, 0, 0.3.
    told = np.repeat([0.1, 0.3, 0.5, 0.7, 0.9], 10)
    hit = np.concatenate([[1.0] * k + [0.0] * (10 - k) for k in (0, 3, 5, 7, 6)])
    assert expected_error(told, hit) == pytest.approx(0.4 / 5)


@given(st.lists(st.booleans(), min_size=1, max_size=30))
def test_equal_confidence_has_the_risk_of_its_answers(right: list[bool]) -> None:
    """When all are equally sure, risk is the share wrong at every coverage."""
    assert calibration([0.5] * len(right), right)["aurc"] == pytest.approx(1 - sum(right) / len(right))


def test_a_summary_has_all_figures() -> None:
    """Two scenarios of unequal size: micro and macro differ, intervals are clustered, effort and time have their spread."""
    draw = random.Random(3)
    verdicts = []
    for scenario, n, component in (("a", 6, "w-1"), ("b", 2, "w-4")):
        for _ in range(n):
            verdict = judge(said(component, "weights_update", confidence=0.9, chain=("w-1",)), LABEL, WORDS, FACTS)
            meter = {"calls": 3, "files": 2, "lines": draw.randint(10, 20), "bytes": 900}
            verdicts.append({**verdict, "diagnoser": "d", "tier": "T1", "scenario": scenario, "meter": meter, "wall_s": 0.2})
    [row] = summarise(verdicts)
    component = row["grains"]["component"]["ac1"]
    assert (component["rate"], component["macro"]) == (0.75, 0.5)
    assert component["clustered"] == (0.0, 1.0) and component["skill"] == pytest.approx((0.75 - 1 / 6) / (1 - 1 / 6))
    assert row["misdiagnosis"]["rate"] == 0.0 and row["wrong_component"]["rate"] == 0.25
    assert row["misled"]["component"]["n"] == 2 and row["misled"]["stage"]["n"] == 0
    assert row["diagnose"]["right"] == 6 and row["effort"]["lines"]["n"] == 8
    assert row["calibration"]["brier"] == pytest.approx((6 * 0.01 + 2 * 0.81) / 8)
    assert row["grounded"]["successes"] == 6 and row["hops"]["median"] == 2
