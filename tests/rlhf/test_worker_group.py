"""Waiting for all workers of a role, and what a failed event or save costs."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from rlhf.batch import DistributedBatchMemory
from rlhf.config import JobConfig, Posture
from rlhf.controller import Controller
from rlhf.errors import InferenceEngineError, TrainEngineError
from rlhf.prompts import sample_prompts
from rlhf.rollout_controller import RolloutController
from rlhf.stats import StatsTracker
from rlhf.worker_group import WorkerGroup, wait_all, wait_causes, wait_future_ordered
from storage.records import Role
from tests.rlhf.job_folder import JobFolder


def _ended(*outcomes: Any) -> list[Future[Any]]:
    """Futures in this order, ended in the opposite one."""
    futures: list[Future[Any]] = [Future() for _ in outcomes]
    for future, outcome in reversed(list(zip(futures, outcomes, strict=True))):
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
    return futures


def test_wait_future_ordered_ends_the_process_and_does_not_raise(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Results keep their order; each failure is one line and one SIGTERM; who outlives it has None in that place."""
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    try:
        results = wait_future_ordered(_ended(1, InferenceEngineError("RolloutError", "gone"), 3))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (results, heard) == ([1, None, 3], [signal.SIGTERM])
    assert caplog.messages == ["Exception caught when waiting for future: InferenceEngineError: RolloutError: gone"]


def test_a_left_workers_share_goes_to_another_and_what_was_sampled_is_kept(
    monkeypatch: pytest.MonkeyPatch, job_folder: Callable[[JobConfig], JobFolder]
) -> None:
    """Three ranks, one fails; it is left for lost: its share alone is asked again, of another; shares keep their order."""
    config = JobConfig(rollout_workers=3, posture=Posture(restart=True, heartbeats=True, partial_rollout="abort"))
    folder = job_folder(config)
    prompts = sample_prompts(config, 5)
    shares, asked, ranks = prompts.split(3), [], [[0, 1, 2], [0, 2]]
    with StatsTracker(folder.path / "stats" / "controller.jsonl", "controller") as stats:
        hand = RolloutController(config, stats)

        def generate(given: list[dict[str, Any]], step: int, to: list[int]) -> list[Future[Any]]:
            asked.append(to)
            return _ended(
                *(
                    InferenceEngineError("RolloutError", "gone") if rank == 1 else ({}, share)
                    for rank, share in zip(to, given, strict=True)
                )
            )

        monkeypatch.setattr(hand, "_generate", generate)
        monkeypatch.setattr(hand, "_samplers", lambda _: ranks[len(asked)])
        with pytest.raises(InferenceEngineError):
            hand.rollout(prompts, 5)
        whole = hand.rollout(prompts, 5)
    assert asked == [[0, 1, 2], [2]]
    assert whole["prompt_ids"].tolist() == DistributedBatchMemory.concat(shares)["prompt_ids"].tolist()


def test_wait_all_raises_after_all_have_ended(caplog: pytest.LogCaptureFixture) -> None:
    """Results keep their order; every failure is told, one is raised."""
    assert wait_all(_ended(1, 2, 3)) == [1, 2, 3]
    with pytest.raises(TrainEngineError, match="SaveError"):
        wait_all(_ended(TrainEngineError("SaveError", "a"), 2, TrainEngineError("SaveError", "b")))
    assert len(caplog.messages) == 2


def test_who_waited_in_vain_is_not_the_cause() -> None:
    """Where an upload and those who wait for it fail, the upload's error is raised, however late it comes; else theirs is."""
    upload = TrainEngineError("UploadWeightsError", "train1: gave up")
    waits = [InferenceEngineError("UpdateWeightError", f"rollout{rank}: timed out") for rank in range(2)]
    ended = _ended(1, upload, *waits)  # from the last to the first
    with pytest.raises(TrainEngineError) as caught:
        wait_causes(ended[:2], ended[2:])
    assert caught.value is upload
    with pytest.raises(InferenceEngineError, match="timed out"):
        wait_causes(_ended(1, 2), _ended(*waits))
    wait_causes(_ended(1, 2), _ended(3))


@pytest.fixture
def stats(tmp_path: Path) -> Iterator[StatsTracker]:
    with StatsTracker(tmp_path / "controller.jsonl", "controller") as opened:
        yield opened


@pytest.mark.parametrize("word", ["warn", "raise"])
def test_on_notify_failure(job_folder: Callable, stats: StatsTracker, caplog: pytest.LogCaptureFixture, word: str) -> None:
    """An event that nobody hears is a NotifyEventError: a warning and "not all have heard", or raised."""
    config = JobConfig(train_workers=1, time_scale=7200.0, posture=Posture(on_notify_failure=word))
    job_folder(config)
    group = WorkerGroup(Role.TRAIN, config, stats, TrainEngineError)
    if word == "raise":
        with pytest.raises(TrainEngineError, match="NotifyEventError: train0: Max retries exceeded"):
            group.notify("train_start", 3)
    else:
        assert not group.notify("train_start", 3)
        told = [record for record in caplog.records if record.levelno == logging.WARNING]
        assert "notify_train_start_event failed: TrainEngineError: NotifyEventError" in told[-1].getMessage()


@pytest.mark.parametrize("kept", [{}, {"epoch": 0}], ids=["latest", "periodic"])
@pytest.mark.parametrize("word", ["warn", "raise"])
def test_on_save_failure(
    job_folder: Callable,
    stats: StatsTracker,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    word: str,
    kept: dict[str, int],
) -> None:
    """A checkpoint that cannot be written is a SaveError: a warning and the loop goes on, or raised; its time is kept."""
    config = JobConfig(posture=Posture(on_save_failure=word), **{f"{'periodic' if kept else 'latest'}_save_interval": 2})
    job_folder(config)
    controller = Controller(JobConfig(**{**config.__dict__, "latest_save_interval": 0 if kept else 2}), stats)

    def fail(step: int, **asked: int) -> None:
        assert (step, asked) == (4, kept)
        raise TrainEngineError("SaveError", "no space left")

    monkeypatch.setattr(controller.train, "save", fail)
    controller._save_if_due(3)
    if word == "raise":
        with pytest.raises(TrainEngineError, match="SaveError: no space left"):
            controller._save_if_due(4)
    else:
        controller._save_if_due(4)
        assert "_checkpoint failed: TrainEngineError: SaveError: no space left" in caplog.text
    assert (Path(stats._file.name).read_text().count("_recover_save")) == 1
