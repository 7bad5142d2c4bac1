"""The shared device as the sampler sees it, beside the job's own code that shares it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rlhf.arena import MIB, DeviceArena
from rlhf.stats import StatsTracker
from telemetry.arena import ArenaSource
from telemetry.registry import Registered

HOSTS = {"train1": "trainers", "rollout1": "rollouts", "train0": "trainers"}


@pytest.fixture
def source(tmp_path: Path) -> Iterator[ArenaSource]:
    made = ArenaSource(tmp_path)
    made.follow({name: Registered(name, host, 1, 1) for name, host in HOSTS.items()})
    yield made
    made.close()


def read(source: ArenaSource) -> dict[tuple[str, str], float | None]:
    return {
        (component, metric): value
        for _, component, metrics, values in source.read(0.0)
        for (metric, _), value in zip(metrics, values, strict=True)
    }


def test_what_is_in_use_and_whose_turn_it_is(source: ArenaSource, tmp_path: Path) -> None:
    """Nothing without a device; then the sum of live allocations, of whomever, and a flag for who has the lease."""
    assert read(source) == {} and source.lacks == "no device is shared"
    with StatsTracker(tmp_path / "s.jsonl", "s") as stats:
        train, rollout = (DeviceArena(tmp_path / "node1", 8 * MIB, name, stats) for name in ("train1", "rollout1"))
        size = {("node1", "device_total_bytes"): 8.0 * MIB}
        free = {("train1", "device_leased"): 0.0, ("rollout1", "device_leased"): 0.0}
        assert read(source) == {**size, **free, ("node1", "device_used_bytes"): 0.0}
        train.request()
        held = [train.allocate(MIB, 0.0), train.allocate(2 * MIB, 0.0)]
        used = {("node1", "device_used_bytes"): 3.0 * MIB}
        assert read(source) == {**size, **free, **used, ("train1", "device_leased"): 1.0}
        held[0].free()
        train.release()
        rollout.request()
        rollout.allocate(MIB, 0.0)
        assert read(source) == {**size, **free, **used, ("rollout1", "device_leased"): 1.0}
        for arena in (train, rollout):
            arena.close()


def test_what_is_not_a_device_is_no_row(source: ArenaSource, tmp_path: Path) -> None:
    """A lease that nobody can read is nobody's; a device that cannot be opened is missed; other files are none."""
    (tmp_path / "node0").symlink_to("nowhere")
    (tmp_path / "node0.lease").write_text('{"owner": 3}')
    (tmp_path / "node0.request").write_text("train0")
    assert read(source) == {
        ("node0", "device_used_bytes"): None,
        ("node0", "device_total_bytes"): None,
        ("train0", "device_leased"): 0.0,
    }
