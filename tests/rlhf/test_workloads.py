"""Whole jobs, as processes, of other workloads, layouts and models than the usual one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rlhf.config import JobConfig
from tests.rlhf.job_folder import Hold, JobFolder
from tests.rlhf.tiny_hf import save_llama

pytestmark = pytest.mark.job

SMALL = {"steps": 3, "train_workers": 2, "prompts_per_step": 4, "samples_per_prompt": 4}
SFT = {"workload": "sft", "rollout_workers": 0, "reference_workers": 0}


def run(folder: JobFolder, **env: str) -> None:
    """The job to its end, which must be good, and leave nothing running."""
    folder.start("rlhf.scheduler")
    assert folder.start("rlhf.job", **env).wait(280) == 0, folder.log("controller") + folder.log("train0")
    scheduler = folder.processes["rlhf.scheduler"]
    scheduler.terminate()
    assert scheduler.wait(60) == 0
    assert folder.living() == []
    assert "ERROR" not in folder.log("controller")


def test_the_supervised_workload_runs_on_train_workers_alone(job_folder: Callable[[JobConfig], JobFolder]) -> None:
    """Three steps of training and checkpoints; no other stage is entered and no rollout or reference worker exists."""
    folder = job_folder(JobConfig(**SMALL, **SFT))
    listener = Hold(folder, "train", 1, lambda: None)
    run(folder, STAGE_SOCKET=str(listener.path))
    assert len(folder.stats("controller", "loss")) == 3
    assert {stage for stage, _ in listener.seen} == {"init", "train", "checkpoint", "cleanup"}
    started = {path.stem for path in (folder.path / "registry").iterdir()}
    assert started == {"controller", "scheduler", "metaserver", "reward", "train0", "train1"}
    assert (folder.path / "recover" / "latest_checkpoint" / "model.pt").is_file()


#: Timings of a step in the order in which they end, and what the controller says meanwhile.
TIMINGS = """weights_update_step notify_rollout_start_event rollout_main rollout_step notify_rollout_end_event post_data_process
reference_step notify_train_start_event train_distributed_batch latest_recover_save notify_train_end_event train_step e2e"""
LINES = """start to update weight, step: 2, epoch: 0
meta_server update weight succeeded (parallel), step: 2, epoch: 0
start to notify_rollout_start_event, step: 2, epoch: 0
notify_rollout_start_event succeeded, step: 2, epoch: 0
start to rollout, step: 2, epoch: 0
rollout succeeded, step: 2, epoch: 0
start to notify_rollout_end_event, step: 2, epoch: 0
start to compute_logprobs_with_distributed, step: 2, epoch: 0
start to notify_train_start_event, step: 2, epoch: 0
start to train, step: 2, epoch: 0
train succeeded, step: 2, epoch: 0
[Trainer] start save latest_checkpoint recover info, epoch:0, epoch_step: 2, global_step:2
start to notify_train_end_event, step: 2, epoch: 0
Stopping job with UID:
scheduler cleanup_jobs finished"""


def reads_like_the_trainer(folder: JobFolder) -> None:
    """Timings and lines of a step are all there, in the trainer's order."""
    told = [json.loads(line) for line in (folder.path / "stats" / "controller.jsonl").read_text().splitlines()]
    ended = [line["metric"].removeprefix("timeperf/") for line in told if line["step"] == 2 and "timeperf" in line["metric"]]
    assert ended == [*TIMINGS.split(), "cleanup"]
    log, place = folder.log("controller"), 0
    for line in LINES.splitlines():
        assert line in log[place:], f"{line!r} is not told, or not in its place"
        place = log.index(line, place)


def test_a_job_with_a_sharded_model_hands_on_complete_weights(job_folder: Callable[[JobConfig], JobFolder]) -> None:
    """Two train ranks hold half of the model each; rollouts and checkpoints get it whole; the log is the usual."""
    config = JobConfig(**SMALL, rollout_workers=1, shard_size=2)
    folder = job_folder(config)
    run(folder)
    assert len(folder.stats("controller", "reward")) == 3
    assert max(folder.stats("rollout0", "weights_version")) == 2
    saved = torch.load(folder.path / "recover" / "latest_checkpoint" / "model.pt", weights_only=True)
    assert 4 * sum(tensor.numel() for tensor in saved.values()) == config.parameter_bytes
    reads_like_the_trainer(folder)


@pytest.mark.long
def test_a_job_with_a_hugging_face_model(job_folder: Callable[[JobConfig], JobFolder], tmp_path: Path) -> None:
    """GRPO on a library model from a local folder, over all processes."""
    folder = job_folder(JobConfig(**{**SMALL, "train_workers": 1}, rollout_workers=1, model_path=str(save_llama(tmp_path))))
    run(folder)
    assert len(folder.stats("controller", "reward")) == 3
    assert all(kl < 1 for kl in folder.stats("controller", "kl"))


def test_a_folder_that_is_no_model_ends_the_job_with_a_sentence(
    job_folder: Callable[[JobConfig], JobFolder], tmp_path: Path
) -> None:
    """The controller's last line names the folder and what is missing; nothing hangs."""
    config = JobConfig(**SMALL, rollout_workers=1)
    folder = job_folder(config)
    told = json.loads((folder.path / "config.json").read_text()) | {"model_path": str(tmp_path)}
    (folder.path / "config.json").write_text(json.dumps(told))
    folder.start("rlhf.scheduler")
    assert folder.start("rlhf.job").wait(280) == 1
    last = folder.log("controller").splitlines()[-1]
    assert "InitializeError" in last
    assert f"model_path {tmp_path}: no folder of a Hugging Face model (there is no config.json)" in last
