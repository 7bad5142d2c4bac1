"""Train and rollout on one device, by turns."""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch

from rlhf import links
from rlhf.arena import ArenaOutOfMemoryError
from rlhf.colocation import RolloutDevice, TrainDevice, open_arena
from rlhf.config import JobConfig, Timeouts, job_config
from rlhf.dispatch import Dispatch
from rlhf.engines.rollout import RolloutEngine
from rlhf.prompts import sample_prompts
from rlhf.rpc import CREATE_ENGINE, EVENT
from rlhf.rpc_server import BadRequestError
from rlhf.stats import StatsTracker
from rlhf.topology import components
from tests.rlhf.job_folder import JobFolder
from tests.rlhf.told import check_told

SIZES = {"train_workers": 1, "rollout_workers": 1, "prompts_per_step": 4, "samples_per_prompt": 4}
COLOCATED = JobConfig(**SIZES, colocated=True, time_scale=1.0, timeouts=Timeouts(arena=0.5))


@pytest.fixture
def stats(tmp_path: Path) -> Iterator[StatsTracker]:
    with StatsTracker(tmp_path / "stats.jsonl", "train0") as opened:
        yield opened


def _until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_device_changes_hands_by_the_events(job_folder: Callable, stats: StatsTracker) -> None:
    """Train has it until rollout is told to start, rollout until told to end; train's state moves out and in unchanged."""
    job_folder(COLOCATED)
    state = torch.arange(5.0)
    arena = open_arena("rollout0", COLOCATED, stats)
    train, rollout = (
        TrainDevice("train0", COLOCATED, stats, lambda: [state]),
        RolloutDevice("rollout0", COLOCATED, stats),
    )
    train.begin()
    on_device = state.data_ptr()
    assert arena.holder()[0] == "train0" and arena.used_bytes() == 60 << 20
    with pytest.raises(ArenaOutOfMemoryError, match="lease held by train0"), rollout.cache_memory():
        pass
    rollout.hear("rollout_start")
    _until(lambda: arena.holder()[0] == "")
    assert state.data_ptr() != on_device and state.tolist() == [0, 1, 2, 3, 4]
    with rollout.cache_memory() as region:
        assert region is not None and region.numel() * 4 == 48 << 20
        assert (arena.holder()[0], arena.used_bytes()) == ("rollout0", 48 << 20)
        train.hear("train_start")
        with pytest.raises(ArenaOutOfMemoryError, match="lease held by rollout0"), train.resident():
            pass
    rollout.hear("rollout_end")
    with train.resident():
        state += 1
        assert arena.holder()[0] == "train0"
    assert state.tolist() == [1, 2, 3, 4, 5]


def test_without_colocation_events_move_nothing(job_folder: Callable, stats: StatsTracker) -> None:
    """Apart, workers have memory of their own and no arena is made."""
    folder = job_folder(JobConfig(**SIZES))
    device, state = RolloutDevice("rollout0", folder.config, stats), torch.ones(3)
    device.hear("rollout_start")
    with device.cache_memory() as region, TrainDevice("train0", folder.config, stats, lambda: [state]).resident():
        assert region is None
    assert not (folder.path / "arena").exists()


@pytest.mark.parametrize(
    ("component", "events"), [("train0", ("train_start", "train_end")), ("rollout0", ("rollout_start", "rollout_end"))]
)
def test_a_worker_accepts_its_own_events_alone(
    job_folder: Callable, stats: StatsTracker, component: str, events: tuple[str, ...]
) -> None:
    """Rollout takes rollout_start and rollout_end, train takes train_start and train_end; any other is a bad request."""
    config = job_folder(JobConfig(**SIZES)).config
    dispatch = Dispatch(component, config, stats)
    dispatch.serve(CREATE_ENGINE, {}, {})
    for event in ("rollout_start", "rollout_end", "train_start", "train_end", "pause", None):
        meta = {"event": event, "global_step": 3}
        if event in events:
            dispatch.serve(EVENT, meta, {})
        else:
            with pytest.raises(BadRequestError, match=f"takes {events[0]} and {events[1]}, not"):
                dispatch.serve(EVENT, meta, {})


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"train_workers": 2, "shard_size": 2}, "colocated: built for whole models"),
        ({"arena_mib": 50}, "arena_mib 50: a worker alone needs 60 MiB"),
    ],
)
def test_what_cannot_be_is_refused(wrong: dict, told: str) -> None:
    """Colocation of anything but whole models, or on too small a device, is refused in a sentence."""
    with pytest.raises(ValueError, match=told):
        job_config({"colocated": True, **wrong})


def test_state_and_caches_lie_in_the_file(job_folder: Callable, stats: StatsTracker) -> None:
    """Bytes that a stranger writes into the device's file are the state's bytes, and caches of a rollout are found there."""
    folder = job_folder(COLOCATED)
    device, state = folder.path / "arena" / "node0", torch.ones(3)
    train = TrainDevice("train0", COLOCATED, stats, lambda: [state])
    train.begin()
    with device.open("r+b") as file:
        file.write(struct.pack("f", -7.0))
    assert state.tolist() == [-7.0, 1.0, 1.0]
    engine = RolloutEngine(COLOCATED, 0)
    rollout = RolloutDevice("rollout0", COLOCATED, stats)
    rollout.hear("rollout_start")
    with rollout.cache_memory() as engine.model.cache_memory:
        engine.generate(sample_prompts(COLOCATED, 0), 0, lambda asked, _: [0.0] * len(asked))
        assert device.read_bytes()[: 1 << 16].count(0) < 1 << 15
    assert state.tolist() == [-7.0, 1.0, 1.0]


def _run(folder: JobFolder) -> int:
    scheduler = folder.start("rlhf.scheduler")
    code = folder.start("rlhf.job").wait(200)
    scheduler.terminate()
    assert scheduler.wait(60) == 0 and folder.living() == []
    return code


@pytest.mark.job
def test_a_colocated_job_runs(job_folder: Callable[[JobConfig], JobFolder]) -> None:
    """Two pairs on two devices: every step has its reward, each device goes from hand to hand twice a step.

    Every figure that docs/metrics.md says such a job tells is told, and no other.
    """
    config = JobConfig(**{**SIZES, "train_workers": 2, "rollout_workers": 2}, colocated=True, steps=3)
    folder = job_folder(config)
    assert _run(folder) == 0, folder.log("controller")
    assert len(folder.stats("controller", "reward")) == 3
    for component in ("train0", "train1", "rollout0", "rollout1"):
        turns = folder.stats(component, "arena_lease_count")
        assert turns == [1.0, 0.0] * (len(turns) // 2) + [1.0] * (len(turns) % 2)
        assert len(turns) >= 2 * config.steps
    assert max(folder.stats("rollout0", "arena_used_bytes")) == 48 << 20
    assert "WARNING" not in folder.log("controller")
    check_told(folder, "colocated")
    assert set(components(config)) <= {path.stem for path in (folder.path / "logs").iterdir()}


@pytest.mark.job
def test_a_lost_rollout_start_is_out_of_memory_in_rollout(job_folder: Callable[[JobConfig], JobFolder]) -> None:
    """The event is never answered: a warning; then rollout fails to allocate again and again while train has the lease."""
    timeouts = Timeouts(event=1.0, arena=3.0)
    folder = job_folder(JobConfig(**SIZES, colocated=True, steps=3, time_scale=1.0, timeouts=timeouts))
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        table = links.name_table()
        table["dial"]["controller>rollout0:event"] = "{}:{}".format(*silent.getsockname())
        (folder.path / "addresses.json").write_text(json.dumps(table))
        assert _run(folder) == 1
    log, rollout = folder.log("controller"), folder.log("rollout0")
    assert "notify_rollout_start_event failed: InferenceEngineError: NotifyEventError" in log
    assert "notify_rollout_start_event succeeded" not in log and "event rollout_start" not in rollout
    assert "RolloutError: out of memory: tried to allocate 48.0 MiB, 60.0 of 64.0 MiB in use, lease held by train0" in log
    assert log.splitlines()[-1].startswith("rlhf.errors.InferenceEngineError: InferenceEngineError: RolloutError")
    assert folder.stats("rollout0", "arena_failed_count")[0] >= 20
    assert folder.stats("train0", "arena_lease_count") == [1.0], "train had it from beginning to end"
    assert "WARNING rollout0: out of memory" in rollout
