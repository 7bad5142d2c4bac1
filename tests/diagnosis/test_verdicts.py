import random
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diagnosis import score
from diagnosis.chance import chance_at, chance_reciprocal_rank
from diagnosis.intervals import wilson
from diagnosis.score import GRAINS, judge
from diagnosis.summary import summarise
from diagnosis.vocabulary import KINDS, STAGES, Vocabulary
from storage.records import Cause, Diagnosis, Label

ROLES = {"w-0": "controller", "w-1": "train", "w-2": "train", "w-3": "rollout", "w-4": "rollout", "w-5": "metaserver"}
WORDS = Vocabulary("case", ROLES)
LABEL = Label(fault=True, component="w-1", stage="weights_update", kinds=("network-bandwidth",), peer="w-5", step=3)
HEALTHY = Label(fault=False, component="", stage="", kinds=())
RIGHT = Cause("w-1", "weights_update", "network-bandwidth")
CAUSES = st.builds(Cause, st.sampled_from(WORDS.components), st.sampled_from(STAGES), st.sampled_from(KINDS))


def blame(*causes: Cause) -> Diagnosis:
    return Diagnosis(fault=True, ranked=causes)


@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, 70))))
def test_chance_is_a_probability_and_grows_with_k(case: tuple[int, int, int]) -> None:
    """Chance lies in [0, 1], never falls with k, and equals m/n at k = 1."""
    n, m, k = case
    assert 0 <= chance_at(k, n, m) <= chance_at(k + 1, n, m) <= 1
    assert chance_at(1, n, m) == pytest.approx(m / n)
    assert m / n - 1e-12 <= chance_reciprocal_rank(n, m) <= 1 + 1e-12


def test_chance_is_what_guessing_scores() -> None:
    """Ten thousand random rankings score what the formulas say, for one and for several right candidates."""
    draw = random.Random(5)
    for n, m in ((6, 1), (6, 2), (9, 3)):
        ranks = [min(draw.sample(range(1, n + 1), m)) for _ in range(10_000)]
        assert sum(rank <= 3 for rank in ranks) / 10_000 == pytest.approx(chance_at(3, n, m), abs=0.02)
        assert sum(1 / rank for rank in ranks) / 10_000 == pytest.approx(chance_reciprocal_rank(n, m), abs=0.02)


@given(st.lists(CAUSES, min_size=1, max_size=12))
def test_scores_obey_their_laws(causes: list[Cause]) -> None:
    """AC@1 <= AC@3, AC@1 <= reciprocal rank <= 1, a joint hit is a hit everywhere, and finer grains imply coarser ones."""
    grains = judge(blame(*causes), LABEL, WORDS)["grains"]
    assert set(grains) == set(GRAINS)
    for grain in grains.values():
        assert grain["ac1"] <= grain["ac3"]
        assert grain["ac1"] <= grain["reciprocal_rank"] <= 1
        assert all(0 < chance <= 1 for chance in grain["chance"].values())
    if grains["joint"]["ac1"]:
        assert all(grain["ac1"] for grain in grains.values())
    assert grains["component"]["ac1"] <= min(grains["endpoint"]["ac1"], grains["role"]["ac1"])


@given(st.lists(CAUSES, max_size=6))
def test_the_right_answer_first_scores_one_everywhere(rest: list[Cause]) -> None:
    """A perfect first cause is right, whatever follows it."""
    verdict = judge(blame(RIGHT, *rest), LABEL, WORDS)
    assert verdict["outcome"] == "right"
    assert verdict["detected"]
    assert all(grain["ac1"] == grain["ac3"] == grain["reciprocal_rank"] == 1 for grain in verdict["grains"].values())


def test_ranks_count_distinct_values() -> None:
    """Repeating a wrong component does not push the right one down its own list."""
    wrong = [Cause("w-3", stage, kind) for stage, kind in product(STAGES[:3], KINDS[:2])]
    grains = judge(blame(*wrong, RIGHT), LABEL, WORDS)["grains"]
    assert grains["component"]["rank"] == 2
    assert grains["joint"]["rank"] == 7


@pytest.mark.parametrize(
    ("diagnosis", "label", "outcome", "detected"),
    [
        (blame(Cause("w-5", "weights_update", "network-bandwidth")), LABEL, "partial", True),
        (blame(Cause("w-2", "train", "process-kill")), LABEL, "wrong", True),
        (Diagnosis(fault=False, ranked=()), LABEL, "missed", False),
        (Diagnosis(fault=False, ranked=(), abstain=True), LABEL, "abstained", False),
        (None, LABEL, "failed", False),
        (Diagnosis(fault=False, ranked=()), HEALTHY, "right", True),
        (Diagnosis(fault=False, ranked=(), abstain=True), HEALTHY, "abstained", True),
        (blame(RIGHT), HEALTHY, "false-blame", False),
        (None, HEALTHY, "failed", False),
    ],
)
def test_outcomes(diagnosis: Diagnosis | None, label: Label, outcome: str, detected: bool) -> None:
    """Link ends, misses, abstentions, false blame and failures each have their own outcome; only causes earn points."""
    verdict = judge(diagnosis, label, WORDS)
    assert (verdict["outcome"], verdict["detected"]) == (outcome, detected)
    if outcome in ("missed", "abstained", "failed"):
        assert not any(grain["ac3"] or grain["reciprocal_rank"] for grain in verdict["grains"].values())
    if outcome == "partial":
        hits = {name for name, grain in verdict["grains"].items() if grain["ac1"]}
        assert hits == {"endpoint", "stage", "kind"}


def test_any_injected_kind_is_right() -> None:
    """A composed scenario accepts each of its kinds, and chance knows it."""
    label = Label(fault=True, component="w-3", stage="rollout", kinds=("cpu-contention", "memory-pressure"))
    grains = judge(blame(Cause("w-3", "rollout", "memory-pressure")), label, WORDS)["grains"]
    assert grains["joint"]["ac1"] == 1
    assert grains["kind"]["chance"]["ac1"] == pytest.approx(2 / len(KINDS))
    assert grains["joint"]["chance"]["ac1"] == pytest.approx(2 / (len(ROLES) * len(STAGES) * len(KINDS)))


def test_a_broken_judge_gives_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """A label outside the vocabulary or a crash inside the judge is unknown, and no rate counts it."""
    strange = judge(
        blame(RIGHT), Label(fault=True, component="w-9", stage="weights_update", kinds=("network-bandwidth",)), WORDS
    )
    monkeypatch.setattr(score, "chance_at", lambda *_: 1 / 0)
    crashed = judge(blame(RIGHT), LABEL, WORDS)
    assert [v["outcome"] for v in (strange, crashed)] == ["unknown", "unknown"]
    assert crashed["grains"] == {} and "ZeroDivisionError" in crashed["reason"]
    [row] = summarise([{**crashed, "diagnoser": "d", "tier": "T0"}])
    assert (row["n"], row["outcomes"], row["grains"]) == (0, {"unknown": 1}, {})


def test_shuffled_labels_bring_every_answer_to_chance() -> None:
    """Perfect answers against labels of other cases score at chance: the score has no other way to the label."""
    draw = random.Random(11)
    labels = [
        Label(fault=True, component=draw.choice(WORDS.components), stage=draw.choice(STAGES), kinds=(draw.choice(KINDS),))
        for _ in range(3000)
    ]
    answers = [blame(Cause(label.component, label.stage, label.kinds[0])) for label in labels]
    draw.shuffle(labels)
    rows = [{**judge(a, label, WORDS), "diagnoser": "d", "tier": "T1"} for a, label in zip(answers, labels, strict=True)]
    [row] = summarise(rows)
    for grain in ("component", "stage", "kind", "joint"):
        assert row["grains"][grain]["ac1"]["lift"] == pytest.approx(0, abs=0.03)


def test_summary_separates_what_it_counts() -> None:
    """Failures count as wrong, abstentions lower coverage and not misdiagnosis, healthy cases have their own rate."""
    given = [
        blame(RIGHT),
        blame(Cause("w-3", "rollout", "process-kill")),
        None,
        Diagnosis(fault=False, ranked=(), abstain=True),
    ]
    verdicts = [judge(answer, LABEL, WORDS) for answer in given] + [judge(blame(RIGHT), HEALTHY, WORDS)]
    [row] = summarise({**verdict, "diagnoser": "d", "tier": "T0"} for verdict in verdicts)
    assert row["outcomes"] == {"abstained": 1, "failed": 1, "false-blame": 1, "right": 1, "wrong": 1}
    assert (row["grains"]["joint"]["ac1"]["successes"], row["grains"]["joint"]["ac1"]["n"]) == (1, 4)
    assert (row["coverage"]["rate"], row["misdiagnosis"]["rate"], row["false_blame"]["rate"]) == (0.5, 0.5, 1.0)


@pytest.mark.parametrize(("successes", "n", "low", "high"), [(3, 5, 0.23, 0.88), (6, 10, 0.31, 0.83), (15, 25, 0.41, 0.77)])
def test_wilson_intervals(successes: int, n: int, low: float, high: float) -> None:
    """Published values come out."""
    assert wilson(successes, n) == (pytest.approx(low, abs=0.005), pytest.approx(high, abs=0.005))
