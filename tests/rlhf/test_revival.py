"""Lost processes of the job come back: no more often than is sensible, and with what their successors need."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from rlhf.config import HARDENED, JobConfig
from rlhf.errors import EngineError, FrameworkError, InferenceEngineError, TrainEngineError
from rlhf.resilience.restart_protocol import RestartSettings
from rlhf.resilience.retry import RetryPolicy
from rlhf.revival import LIMIT, Revival
from rlhf.rpc import RpcError
from rlhf.stats import StatsTracker

LOST = InferenceEngineError("RolloutError", "rollout1: Connection lost")


class Job:
    """A job of names: who is lost is in ``gone``; what is asked of it is put down in ``done``."""

    def __init__(self, *gone: str):
        self.gone, self.done = set(gone), list[str]()
        self.spare = set[str]()
        self.fail: Callable[[str], None] = lambda _: None

    def ended(self) -> list[str]:
        return sorted(self.gone & {"metaserver"})

    def restart_workers(self, components: Sequence[str], wait_s: float) -> None:
        self.fail(f"{wait_s:.0f}")
        self.done.append(f"restart {' '.join(components)}")
        self.gone -= set(components)

    def lost(self) -> list[str]:
        return sorted(self.gone - {"metaserver"})

    def retire(self, lost: Sequence[str]) -> list[str]:
        return ["train1"] if "train0" in lost else []

    def leave(self, component: str) -> bool:
        return component in self.spare

    def renew(self, restarted: set[str]) -> None:
        if restarted:
            self.done.append(f"renew {' '.join(sorted(restarted))}")

    def lose(self, *names: str, cause: EngineError = LOST) -> None:
        self.gone |= set(names)
        raise cause


@pytest.fixture
def stats(tmp_path: Path) -> StatsTracker:
    return StatsTracker(tmp_path / "controller.jsonl", "controller")


def revival(job: Job, stats: StatsTracker, settings: RestartSettings | None = None) -> Revival:
    return Revival(job, [job], settings or RestartSettings(), stats, RetryPolicy(attempts=1, base_s=0.25))


def test_every_layout_may_be_hardened() -> None:
    """Every switch on, in any layout that the job knows."""
    for layout in ({"colocated": True}, {"weight_sync": "disk"}, {"shard_size": 2}, {"disk_source": "latest"}):
        assert JobConfig(posture=HARDENED, **layout).posture.restart


def test_an_act_is_done_again_with_what_was_lost(stats: StatsTracker) -> None:
    """Ended and silent processes are started again, their companions after them, engines are made anew, and the act is done."""
    job, tries = Job(), iter([lambda: job.lose("train0", "metaserver"), lambda: "done"])
    assert revival(job, stats).survive(lambda: next(tries)()) == "done"
    assert job.done == ["restart metaserver train0", "restart train1", "renew metaserver train0 train1"]


def test_engines_that_were_made_anew_are_not_made_again(stats: StatsTracker) -> None:
    """When one hand's workers are lost while they are made anew, another's, which are made, are left as they are."""
    first, second = Job(), Job()
    losses = iter([lambda: first.lose("train0"), lambda: "done"])
    again = iter([lambda: first.lose("rollout0"), lambda: None])
    second.renew = lambda restarted: restarted and next(again, lambda: None)()
    kept = Revival(first, [first, second], RestartSettings(), stats, RetryPolicy(attempts=1, base_s=0.25))
    assert kept.survive(lambda: next(losses)()) == "done"
    assert [what for what in first.done if what.startswith("renew")] == ["renew train0 train1", "renew rollout0"]


def test_an_error_of_somebody_who_is_there_is_final(stats: StatsTracker) -> None:
    """An engine's own exception restarts nobody; nor does an event nobody answered: who was not told can be told again."""
    silent = TrainEngineError("NotifyEventError", "train0: Request timeout")
    silent.__cause__ = RpcError("train0", "train_start", "Request timeout after 1.0s")
    raised = TrainEngineError("TrainBatchError", "train0: out of memory")
    raised.__cause__ = RpcError("train0", "train_batch", "HTTP 500: Exception: out of memory", 500)
    for error in (silent, raised, FrameworkError("DistributedBatchMemoryError", "Batch size mismatch")):
        job = Job()
        with pytest.raises(type(error)) as caught:
            revival(job, stats).survive(lambda error=error, job=job: job.lose(cause=error))
        assert caught.value is error and job.done == []


def test_who_answers_but_not_this_call_is_lost(stats: StatsTracker) -> None:
    """A worker whose process is alive and whose call had no answer in time hangs: it is the one that is started again."""
    hung = InferenceEngineError("RolloutError", "rollout1: Request timeout")
    hung.__cause__ = RpcError("rollout1", "generate", "Request timeout after 5.0s")
    job, tries = Job(), iter([lambda: job.lose(cause=hung), lambda: "done"])
    assert revival(job, stats).survive(lambda: next(tries)()) == "done"
    assert job.done == ["restart rollout1", "renew rollout1"]


def test_one_that_is_lost_again_before_it_has_an_engine_is_started_again(stats: StatsTracker) -> None:
    """The making of engines is part of what is survived."""
    job, renew = Job("rollout1"), Job.renew
    losses = iter([True, False])

    def flaky(restarted: set[str]) -> None:
        if restarted and next(losses):
            job.lose("rollout1")
        renew(job, restarted)

    job.renew = flaky  # type: ignore[method-assign]
    tries = iter([lambda: job.lose(), lambda: "done"])
    assert revival(job, stats).survive(lambda: next(tries)()) == "done"
    assert job.done == ["restart rollout1", "restart rollout1", "renew rollout1"]


def test_a_restart_loop_ends(
    stats: StatsTracker, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A worker lost again and again is restarted three times, after longer and longer waits, then its error is final; another
    worker has its own count."""
    job, waits = Job(), list[float]()
    monkeypatch.setattr(time, "sleep", waits.append)
    watch = revival(job, stats)
    with pytest.raises(InferenceEngineError, match="Connection lost"):
        watch.survive(lambda: job.lose("rollout1"))
    assert job.done.count("restart rollout1") == LIMIT
    assert [record.levelname for record in caplog.records].count("ERROR") == 1
    job.gone.clear()
    tries = iter([lambda: job.lose("rollout0"), lambda: "done"])
    assert watch.survive(lambda: next(tries)()) == "done"
    assert job.done[-2:] == ["restart rollout0", "renew rollout0"]
    assert waits == [0.0, 0.25, 0.5, 0.0]
    lines = map(json.loads, (tmp_path / "controller.jsonl").read_text().splitlines())
    counts = [line["value"] for line in lines if line["metric"] == "restarts_succeeded_count"]
    assert counts == [0.0, 1.0, 2.0, 3.0, 4.0], "none is a figure, too"


def test_who_is_lost_too_often_is_left_where_the_job_can_do_without(
    stats: StatsTracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After three restarts a spare worker is started no more and the act goes on; its own errors are final from then on, while
    others are still started again."""
    monkeypatch.setattr(time, "sleep", lambda _: None)
    job, losses = Job(), iter(["rollout1"] * (LIMIT + 1))
    job.spare = {"rollout1"}
    watch = revival(job, stats)

    def act() -> str:
        for name in losses:
            job.lose(name)
        return "done"

    assert watch.survive(act) == "done"
    assert job.done.count("restart rollout1") == LIMIT
    tries = iter([lambda: job.lose("rollout0"), lambda: "done"])
    assert watch.survive(lambda: next(tries)()) == "done"
    assert job.done[-2:] == ["restart rollout0", "renew rollout0"], "who was left is still away, and not started with it"
    own = InferenceEngineError("RolloutError", "rollout1: Request timeout")
    own.__cause__ = RpcError("rollout1", "generate", "Request timeout after 5.0s")
    with pytest.raises(InferenceEngineError) as caught:
        watch.survive(lambda: job.lose(cause=own))
    assert caught.value is own


def test_switched_off_by_the_environment_and_in_vain(stats: StatsTracker) -> None:
    """With ENABLE_SERVER_RESTART=false nothing is restarted; a restart that fails raises the loss, not its own error."""
    off, job = RestartSettings.from_environment({"ENABLE_SERVER_RESTART": "false"}), Job()
    with pytest.raises(InferenceEngineError, match="Connection lost"):
        revival(job, stats, off).survive(lambda: job.lose("rollout1"))
    assert job.done == []

    def fail(wait: str) -> None:
        raise FrameworkError("SchedulerError", f"no sign of rollout1 within {wait}s")

    waits, job.fail = RestartSettings.from_environment({"SERVER_RESTART_WAIT_TIME": "7"}), fail
    with pytest.raises(InferenceEngineError, match="Connection lost") as caught:
        revival(job, stats, waits).survive(lambda: job.lose("rollout1"))
    assert str(caught.value.__cause__).endswith("no sign of rollout1 within 7s")
