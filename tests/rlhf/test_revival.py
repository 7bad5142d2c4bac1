"""Lost rollout workers come back: in the whole job, and no more often than is sensible."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf.config import HARDENED, JobConfig, Posture
from rlhf.errors import FrameworkError, InferenceEngineError
from rlhf.resilience.checkpoint import verify_checkpoint
from rlhf.resilience.restart_protocol import RestartSettings
from rlhf.revival import LIMIT, Revival
from rlhf.stats import StatsTracker
from tests.rlhf.job_folder import Hold, JobFolder

LOST = InferenceEngineError("RolloutError", "rollout1: Connection lost")
SMALL = {"steps": 9, "train_workers": 1, "prompts_per_step": 4, "samples_per_prompt": 4}


def _finish(folder: JobFolder, job: subprocess.Popen[bytes]) -> int:
    code = job.wait(200)
    folder.processes["rlhf.scheduler"].terminate()
    assert folder.processes["rlhf.scheduler"].wait(60) == 0, folder.log("scheduler")
    assert folder.living() == []
    return code


@pytest.mark.job
def test_a_hardened_job_runs_like_any_other(job_folder: Callable[[JobConfig], JobFolder]) -> None:
    """With every switch on a healthy job does every step, saves, and has nothing to warn of."""
    config = JobConfig(**SMALL, posture=HARDENED, time_scale=36.0)
    folder = job_folder(config)
    folder.start("rlhf.scheduler")
    assert _finish(folder, folder.start("rlhf.job")) == 0, folder.log("controller")
    log = folder.log("controller")
    assert "all engines ready" in log and "WARNING" not in log and "ERROR" not in log
    assert folder.stats("controller", "batch_samples") == [16.0] * config.steps
    assert verify_checkpoint((folder.path / "recover" / "latest_checkpoint").resolve())[0] == 8


@pytest.mark.job
@pytest.mark.parametrize(
    ("number", "posture", "said"),
    [
        (signal.SIGKILL, HARDENED, ""),
        pytest.param(
            signal.SIGSTOP, Posture(restart=True, stage_deadline=True), "Request timeout after", marks=pytest.mark.long
        ),
    ],
    ids=["killed", "stopped"],
)
def test_a_job_survives_the_loss_of_a_rollout_worker(
    number: int, posture: Posture, said: str, job_folder: Callable[[JobConfig], JobFolder]
) -> None:
    """A worker killed, or stopped, on entering a rollout is started again: every step has its whole batch and the job succeeds.

    The stopped one is found out by the deadline that was learned from the steps before, not by the configured time-out.
    """
    config = JobConfig(**SMALL, posture=posture)
    folder = job_folder(config)
    hold = Hold(folder, "rollout", 7, lambda: os.kill(folder.registration("rollout1")["pid"], number))
    folder.start("rlhf.scheduler")
    assert _finish(folder, folder.start("rlhf.job", STAGE_SOCKET=str(hold.path), STAGE_DEADLINE_S="60")) == 0
    log = folder.log("controller")
    assert "rollout1 is lost and will be restarted: InferenceEngineError: RolloutError: rollout1: " + said in log
    assert "rollout1 listens again after" in log
    assert folder.stats("controller", "batch_samples") == [16.0] * config.steps
    assert folder.stats("controller", "restarts_count") == [1.0]
    assert folder.stats("controller", "restart_success_ratio") == [1.0]
    assert folder.stats("rollout1", "weights_version").count(7.0) >= 1
    assert "worker rollout1 is started again, after exit code -9" in folder.log("scheduler")


@pytest.fixture
def stats(tmp_path: Path) -> StatsTracker:
    return StatsTracker(tmp_path / "controller.jsonl", "controller")


def test_what_cannot_be_revived_is_refused() -> None:
    """Where a new worker could not be what the lost one was, the switch is refused before anything starts."""
    for job in ({"colocated": True}, {"weight_sync": "disk"}):
        with pytest.raises(ValueError, match="posture restart"):
            JobConfig(posture=Posture(restart=True), **job)


def test_a_restart_loop_ends(stats: StatsTracker, caplog: pytest.LogCaptureFixture) -> None:
    """A worker lost again and again is restarted three times, then its error is final; another worker has its own count."""
    restarted: list[str] = []
    revival = Revival(lambda component, _: restarted.append(component), RestartSettings(), stats)
    for _ in range(LIMIT):
        revival.restart("rollout1", LOST)
    with pytest.raises(InferenceEngineError, match="Connection lost"):
        revival.restart("rollout1", LOST)
    assert [record.levelname for record in caplog.records].count("ERROR") == 1
    revival.restart("rollout0", LOST)
    assert restarted == ["rollout1"] * LIMIT + ["rollout0"]


def test_switched_off_by_the_environment_and_in_vain(stats: StatsTracker) -> None:
    """With ENABLE_SERVER_RESTART=false nothing is restarted; a restart that fails raises the loss, not its own error."""
    restarted: list[str] = []
    off = RestartSettings.from_environment({"ENABLE_SERVER_RESTART": "false"})
    with pytest.raises(InferenceEngineError, match="Connection lost"):
        Revival(lambda component, _: restarted.append(component), off, stats).restart("rollout1", LOST)
    assert restarted == []

    def fail(component: str, wait_s: float) -> None:
        raise FrameworkError("SchedulerError", f"{component} does not listen within {wait_s:.0f}s")

    waits = RestartSettings.from_environment({"SERVER_RESTART_WAIT_TIME": "7"})
    with pytest.raises(InferenceEngineError, match="Connection lost") as caught:
        Revival(fail, waits, stats).restart("rollout1", LOST)
    assert str(caught.value.__cause__).endswith("rollout1 does not listen within 7s")
