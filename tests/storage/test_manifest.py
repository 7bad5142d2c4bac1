"""The manifest: a run's public facts, never half written."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.layout import RunPaths
from storage.manifest import ManifestError, RunState, end_manifest, load_manifest, save_manifest, start_manifest

FACTS = {"profile": "smoke", "workload": "grpo", "posture": "legacy", "place": "plain-host"}


@pytest.fixture
def paths(tmp_path):
    return RunPaths(tmp_path / "r1").create()


def test_a_run_begins_and_ends(paths):
    """The manifest tells the state, both times, the machine and the outcome, and names no scenario and no arm."""
    begun = start_manifest(paths, **FACTS)
    assert load_manifest(paths) == begun and begun.state == "running" and begun.ended_s is None
    assert begun.machine["cores_count"] >= 1 and begun.machine["memory_bytes"] > 0
    ended = end_manifest(paths, RunState.COMPLETED, {"steps_done": 12})
    assert load_manifest(paths) == ended and ended.ended_s >= begun.started_s and ended.outcome == {"steps_done": 12}
    assert not {"scenario", "arm", "seed"} & set(json.loads(paths.manifest.read_text()))


def test_a_run_that_never_began_cannot_end(paths):
    """Ending it raises the reason."""
    with pytest.raises(ManifestError, match="cannot be read"):
        end_manifest(paths, RunState.CRASHED)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_is_a_manifest_error(data, paths):
    """Truncated, newer, of another run, with values of a wrong type: a ManifestError, nothing else, and never a Manifest."""
    start_manifest(paths, **FACTS)
    whole = json.loads(paths.manifest.read_text())
    strange = st.none() | st.integers(5, 9).map(str) | st.lists(st.integers(), max_size=1)
    key = data.draw(st.sampled_from(["run_id", "state", "started_s", "schema_version", "outcome", "machine"]))
    change = st.builds(lambda value: json.dumps({**whole, key: value}), strange)
    cut = st.integers(0, 40).map(lambda n: json.dumps(whole)[:n])
    paths.manifest.write_text(
        data.draw(st.one_of(cut, change, st.just(json.dumps({**whole, "schema_version": 2})), st.just("[]")))
    )
    with pytest.raises(ManifestError):
        load_manifest(paths)


def test_an_unknown_state_is_refused(paths):
    """A state outside the closed vocabulary is not written."""
    from dataclasses import replace

    with pytest.raises(ValueError):
        save_manifest(paths, replace(start_manifest(paths, **FACTS), state="done"))
    assert load_manifest(paths).state == "running"
