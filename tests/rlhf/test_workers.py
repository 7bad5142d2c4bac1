"""What workers tell of their own work."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rlhf.config import JobConfig
from rlhf.errors import TrainEngineError
from rlhf.prompts import sample_prompts
from rlhf.stats import StatsTracker
from rlhf.task import score
from rlhf.workers import RolloutWorker, TrainWorker
from tests.rlhf.job_folder import JobFolder

CONFIG = JobConfig(train_workers=1, rollout_workers=1, prompts_per_step=2, samples_per_prompt=2)


@pytest.fixture
def folder(job_folder: Callable[[JobConfig], JobFolder]) -> JobFolder:
    return job_folder(CONFIG)


@pytest.fixture
def stats(folder: JobFolder) -> Iterator[StatsTracker]:
    with StatsTracker(folder.path / "stats" / "worker.jsonl", "worker") as opened:
        yield opened


def test_versions_behind_are_told(folder: JobFolder, stats: StatsTracker) -> None:
    """Sampled by the weights of version 3 in step 5: two behind; the initial ones are as good as version 0."""
    worker = RolloutWorker("rollout0", 0, CONFIG, stats)
    worker._reward = SimpleNamespace(score=score, step=-1)  # type: ignore[assignment]
    for step, version in ((0, -1), (5, 3)):
        worker._engine.version = version
        worker.generate(sample_prompts(CONFIG, step).state(), step)
    assert folder.by_step("worker", "staleness_count") == {0: 0.0, 5: 2.0}
    assert folder.stats("worker", "batch_samples") == [4.0, 4.0]
    assert all(seconds > 0 for seconds in folder.stats("worker", "sample_s"))


def test_the_size_of_a_checkpoint_is_what_lies_there(folder: JobFolder, stats: StatsTracker) -> None:
    """After a save all of its files, after one that failed what had been written, which is an error besides."""
    worker = TrainWorker("train0", 0, CONFIG, stats)
    worker._engine.initialize("127.0.0.1", 0)
    worker.save({}, step=2)
    whole = sum(path.stat().st_size for path in (folder.path / "recover" / "latest_checkpoint_even").iterdir())

    def torn(target: Path, _: Mapping[str, Any], __: int) -> dict[str, int]:
        (target / "latest_checkpoint_even" / "model.pt").write_bytes(b"torn")
        (target / "latest_checkpoint_even" / "optimizer.pt").unlink()
        raise OSError(errno.ENOSPC, "No space left on device")

    worker._engine._save = torn
    with pytest.raises(TrainEngineError, match="SaveError"):
        worker.save({}, step=4)
    told = folder.by_step("worker", "checkpoint_bytes")
    assert told[2] == whole > told[4] >= 4.0
    assert set(folder.by_step("worker", "checkpoint_s")) == {2, 4}
