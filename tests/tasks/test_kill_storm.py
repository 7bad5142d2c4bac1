"""kill -9 at random moments over the lab's processes, a short storm; the long one and its table: bench/kill_storm.py."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from bench.kill_storm import PLACES, read, storm
from bench.storm_faults import WAYS, draw, ways
from injection.capability import BACKENDS, lack
from injection.registry import parameter_problem
from storage.records import FaultKind

KILLS = 9


@pytest.mark.job
@pytest.mark.root
@pytest.mark.timeout(600)
@pytest.mark.parametrize("place", PLACES)
def test_killed_at_any_moment_nothing_is_left(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Injector, lab, watchdog, helper or probe, at a moment drawn from the round: nothing is left within lease + 5 s."""
    monkeypatch.setenv("FAULTLINE_HOME", str(tmp_path))
    storm(place, KILLS, 23, tmp_path / "results.jsonl")
    kills = read(tmp_path / "results.jsonl")
    assert len(kills) == KILLS and sum(len(kill.in_force) for kill in kills) >= 3
    assert [kill for kill in kills if not kill.kept] == []


@pytest.mark.parametrize("place", PLACES)
def test_the_storm_has_every_kind_and_backend(place: str) -> None:
    """Whatever the capability table declares for a place is drawn sooner or later, with parameters that are allowed."""
    kinds = {FaultKind(entry["kind"]) for seed in range(200) for entry in draw(place, 4, random.Random(seed))}
    assert kinds == {kind for kind, where in BACKENDS if where == place}
    for (kind, where), backends in BACKENDS.items():
        assert where != place or all(any(not lack(kind, one, params) for params in WAYS[kind]) for one in backends)
    assert [problem for kind, params in ways(place) if (problem := parameter_problem(kind, params))] == []
