"""The whole job, as processes on the loopback, without and with Ray."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from adapters.native import free_ports
from rlhf import ray_nodes
from rlhf.config import JobConfig, Posture, Timeouts
from rlhf.topology import components
from tests.rlhf.job_folder import Hold, JobFolder
from tests.rlhf.relay import redirect, slow_link

pytestmark = pytest.mark.job

SMALL = JobConfig(steps=3, train_workers=1, rollout_workers=1, prompts_per_step=4, samples_per_prompt=4)
PATIENT = {"steps": 500, "prompts_per_step": 4, "samples_per_prompt": 4}


def _finish(folder: JobFolder, job: subprocess.Popen[bytes]) -> int:
    """Exit code of the job; then the scheduler is ended and nothing may be left."""
    code = job.wait(200)
    scheduler = folder.processes["rlhf.scheduler"]
    scheduler.terminate()
    assert scheduler.wait(60) == 0, folder.log("scheduler")
    assert folder.living() == []
    return code


def _check_success(folder: JobFolder, config: JobConfig) -> None:
    assert len(folder.stats("controller", "reward")) == config.steps
    assert all(0.0 <= value <= 1.0 for value in folder.stats("controller", "reward"))
    for key in (
        "e2e",
        "weights_update_step",
        "rollout_main",
        "reference_step",
        "train_distributed_batch",
        "latest_recover_save",
    ):
        assert folder.stats("controller", f"timeperf/{key}"), key
    for component in components(config):
        assert folder.registration(component)["component"] == component
        assert folder.log(component), component
    assert folder.stats("rollout0", "weights_version") == sorted(folder.stats("rollout0", "weights_version"))
    assert max(folder.stats("rollout0", "weights_version")) == config.steps - 1
    assert "ERROR" not in folder.log("controller")
    assert folder.log("controller").splitlines()[-1].endswith("scheduler cleanup_jobs finished")


def test_a_small_job_runs_and_leaves_nothing(job_folder: Callable[[JobConfig], JobFolder]) -> None:
    """Three steps without Ray: exit 0, a reward a step, every process registered, nothing running afterwards."""
    folder = job_folder(SMALL)
    listener = Hold(folder, "reward", 1, lambda: None)
    folder.start("rlhf.scheduler", STAGE_SOCKET=str(listener.path))
    assert _finish(folder, folder.start("rlhf.job")) == 0, folder.log("controller")
    _check_success(folder, SMALL)
    assert listener.seen == [("reward", "enter"), ("reward", "exit")] * SMALL.steps, "a rollout worker announces its scoring"
    _check_requests_are_followed(folder, SMALL)


def _ids(log: str, line: str) -> set[str]:
    """The request ids of the lines of a log that begin so."""
    return set(re.findall(rf": {line}.* request_id=([0-9a-f]{{16}})$", log, re.MULTILINE))


def _check_requests_are_followed(folder: JobFolder, config: JobConfig) -> None:
    """What a worker asked of others while it served a request carries that request's id."""
    uploads, updates = _ids(folder.log("metaserver"), "stored"), _ids(folder.log("metaserver"), "read")
    assert len(uploads) == config.steps * config.train_workers
    assert uploads <= set().union(*(_ids(folder.log(f"train{rank}"), "/call 200") for rank in range(config.train_workers)))
    rollouts = set().union(*(_ids(folder.log(f"rollout{rank}"), "/call 200") for rank in range(config.rollout_workers)))
    assert len(updates) == config.steps * config.rollout_workers
    scored = _ids(folder.log("reward"), "scored")
    assert len(scored) == config.steps * config.rollout_workers
    assert updates | scored <= rollouts


def _lose_rollout1(folder: JobFolder) -> tuple[int, Hold]:
    """Kill the second rollout worker while the job is held entering a rollout; the exit code, and what was announced."""
    hold = Hold(folder, "rollout", 2, lambda: os.kill(folder.registration("rollout1")["pid"], signal.SIGKILL))
    folder.start("rlhf.scheduler")
    job = folder.start("rlhf.job", STAGE_SOCKET=str(hold.path), STAGE_DEADLINE_S="60")
    return _finish(folder, job), hold


def test_a_lost_rollout_worker_comes_out_in_train(job_folder: Callable[[JobConfig], JobFolder]) -> None:
    """kill -9 in rollout: with posture `continue` the error is the batch's size, in train, both sizes in the text."""
    folder = job_folder(JobConfig(**PATIENT, train_workers=1))
    code, listener = _lose_rollout1(folder)
    assert code == 1
    log = folder.log("controller")
    assert "FrameworkError: DistributedBatchMemoryError: Batch size mismatch for key 'group_id': expected 8, got 16" in log
    assert log.splitlines()[-1].startswith("rlhf.errors.FrameworkError: FrameworkError: DistributedBatchMemoryError")
    assert "rollout result of a worker is dropped" in log
    assert "worker rollout1" in folder.log("scheduler") and "exit code -9" in folder.log("scheduler")
    assert [stage for stage, phase in listener.seen if phase == "error"] == ["train"]


def test_posture_abort_reports_in_rollout(job_folder: Callable[[JobConfig], JobFolder]) -> None:
    """The same loss with posture `abort` is a RolloutError, in rollout."""
    folder = job_folder(JobConfig(**PATIENT, train_workers=1, posture=Posture(partial_rollout="abort")))
    code, listener = _lose_rollout1(folder)
    assert code == 1
    assert (
        folder.log("controller")
        .splitlines()[-1]
        .startswith("rlhf.errors.InferenceEngineError: InferenceEngineError: RolloutError")
    )
    assert [stage for stage, phase in listener.seen if phase == "error"] == ["rollout"]


def test_posture_exit_ends_the_controller_by_sigterm(job_folder: Callable[[JobConfig], JobFolder]) -> None:
    """The same loss with posture `exit`: the controller ends itself by SIGTERM, with no traceback of the cause."""
    folder = job_folder(JobConfig(**PATIENT, train_workers=1, posture=Posture(partial_rollout="exit")))
    code, _ = _lose_rollout1(folder)
    log = folder.log("controller")
    assert code == -signal.SIGTERM
    assert "Exception caught when waiting for future: InferenceEngineError: RolloutError: rollout1" in log
    assert log.splitlines()[-1].endswith("scheduler cleanup_jobs finished") and "Traceback" not in log
    assert "start to train, step: 2," not in log


def test_whose_time_is_up_first_is_who_is_blamed(job_folder: Callable[[JobConfig], JobFolder]) -> None:
    """The same narrow link where the controller waits less for uploads than workers for weights: the train worker is blamed."""
    timeouts = Timeouts(update_weights=9.0, upload_weights=4.0, rpc_grace=1.0)
    folder = job_folder(JobConfig(**PATIENT, time_scale=1.0, timeouts=timeouts))
    redirect(folder.path, "train1>metaserver:weights", partial(slow_link, bytes_per_s=20_000))
    folder.start("rlhf.scheduler")
    assert _finish(folder, folder.start("rlhf.job")) == 1
    errors = [line for line in folder.log("controller").splitlines() if "Exception caught when waiting for future" in line]
    assert "TrainEngineError: UploadWeightsError: train1" in errors[0]
    last = folder.log("controller").splitlines()[-1]
    assert last.startswith("rlhf.errors.TrainEngineError: TrainEngineError: UploadWeightsError: train1: Request timeout")


def test_a_slow_upload_comes_out_at_the_rollout_workers(job_folder: Callable[[JobConfig], JobFolder]) -> None:
    """One train worker's narrow link: both rollout workers report UpdateWeightError first, that worker nothing."""
    timeouts = Timeouts(update_weights=4.0, upload_weights=4.0, rpc_grace=4.0)
    folder = job_folder(JobConfig(**PATIENT, time_scale=1.0, timeouts=timeouts))
    redirect(folder.path, "train1>metaserver:weights", partial(slow_link, bytes_per_s=20_000))
    folder.start("rlhf.scheduler")
    assert _finish(folder, folder.start("rlhf.job")) == 1
    errors = [line for line in folder.log("controller").splitlines() if "Exception caught when waiting for future" in line]
    assert len(errors) == 3
    assert all("UpdateWeightError" in line and "rollout" in line for line in errors[:2])
    assert "UploadWeightsError" in errors[2] and "train1" in errors[2]
    assert folder.log("controller").splitlines()[-1].startswith("rlhf.errors.InferenceEngineError")
    assert "upload_weights success" in folder.log("train0")
    cleanup = next(line for line in folder.log("controller").splitlines() if "begin cleanup" in line)
    told = [line for line in folder.log("train1").splitlines() if line[:10] == cleanup[:10] and line < cleanup]
    assert "ERROR" not in "\n".join(told), "what it says when the store is taken away in the cleanup is another matter"
    assert "success" not in folder.log("train1").split("initialize success")[-1]


def test_sigterm_cleans_up_and_is_passed_on(job_folder: Callable[[JobConfig], JobFolder]) -> None:
    """SIGTERM: jobs are cancelled, the process dies by that signal, no worker is left."""
    folder = job_folder(JobConfig(**PATIENT, train_workers=2))
    folder.start("rlhf.scheduler")
    job = folder.start("rlhf.job")
    folder.wait_for_line("controller", "train succeeded, step: 0,", job)
    job.terminate()
    assert _finish(folder, job) == -signal.SIGTERM
    assert "scheduler cleanup_jobs finished" in folder.log("controller")


@pytest.fixture
def ray_address(scratch: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """A cluster of one node on the loopback."""
    folder = scratch / "ray"
    folder.mkdir(mode=0o700)
    env, port = ray_nodes.environment(folder), free_ports(["ray"])["ray"]
    argv = ray_nodes.node_argv(folder, ray_nodes.LOOPBACK, ["localhost"], port=port)
    with (scratch / "node.log").open("wb") as log:
        node = subprocess.Popen(argv, env={**os.environ, **env}, stdout=log, stderr=log)
    yield f"{ray_nodes.LOOPBACK}:{port}", env
    node.terminate()
    node.wait(60)


def test_the_same_job_through_ray(
    job_folder: Callable[[JobConfig], JobFolder], ray_address: tuple[str, dict[str, str]]
) -> None:
    """Placed by Ray the job does the same; what was asked of Ray is recorded, and no word of Ray is in the controller's log."""
    address, env = ray_address
    folder = job_folder(SMALL)
    folder.start("rlhf.scheduler", "--ray", address, **env)
    assert _finish(folder, folder.start("rlhf.job", **env)) == 0, folder.log("controller")
    _check_success(folder, SMALL)
    recorded = json.loads((folder.path / "ray.json").read_text())
    assert recorded["actor"]["max_restarts"] == 0 and recorded["log_to_driver"] is False
    assert "ray" not in folder.log("controller").lower()
