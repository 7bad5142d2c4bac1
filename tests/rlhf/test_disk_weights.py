"""Weights by way of the file system."""

from __future__ import annotations

import re
import resource
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rlhf.checkpoint import load_checkpoint, save_checkpoint
from rlhf.config import JobConfig, Posture, job_config
from rlhf.disk_weights import UNREADABLE, DiskWeights
from rlhf.errors import InferenceEngineError, TrainEngineError
from rlhf.resilience import checkpoint as atomic_checkpoint
from tests.rlhf.job_folder import Hold, JobFolder

FRESH = JobConfig(weight_sync="disk", train_workers=2)
LATEST = JobConfig(weight_sync="disk", disk_source="latest")
STATE = {"model": {"a": torch.arange(2000.0)}, "optimizer": {}, "recover": {"step": 6}}


def test_fresh_shards_arrive_whole(tmp_path: Path) -> None:
    """What all ranks save for an update is what is read for it, and clearing leaves nothing of it."""
    disk = DiskWeights(tmp_path, FRESH)
    for rank, name in enumerate("ab"):
        assert disk.publish({name: torch.full((3,), float(rank))}, rank, 4) > 0
    tensors, version = disk.fetch(4)
    assert version == 4 and {name: tensor.tolist() for name, tensor in tensors.items()} == {"a": [0, 0, 0], "b": [1, 1, 1]}
    disk.clear(4)
    with pytest.raises(InferenceEngineError, match=r"UpdateWeightError: .*FileNotFoundError"):
        disk.fetch(4)


def test_latest_reads_the_checkpoint_however_old(tmp_path: Path) -> None:
    """Nothing is written for an update; the version told is that of the checkpoint; before the first there are no weights."""
    disk = DiskWeights(tmp_path, LATEST)
    assert disk.publish({"a": torch.ones(3)}, 0, 9) == 0
    assert disk.fetch(0) == ({}, 0)
    save_checkpoint(tmp_path / "recover", STATE, 6)
    tensors, version = disk.fetch(9)
    assert version == 7 and torch.equal(tensors["a"], STATE["model"]["a"])


@pytest.mark.parametrize("kept", [0, 1, 100, 4000, 0.5, 0.99])
def test_a_truncated_checkpoint_is_torchs_own_error(tmp_path: Path, kept: float) -> None:
    """A file cut short anywhere fails in the reader, with the text that torch itself has for it."""
    save_checkpoint(tmp_path / "recover", STATE, 6)
    path = tmp_path / "recover" / "latest_checkpoint" / "model.pt"
    whole = path.read_bytes()
    path.write_bytes(whole[: kept if isinstance(kept, int) else int(len(whole) * kept)])
    with pytest.raises(UNREADABLE) as torchs:
        torch.load(path, weights_only=True)
    with pytest.raises(InferenceEngineError, match=f"UpdateWeightError: .*{re.escape(str(torchs.value)[:40])}"):
        DiskWeights(tmp_path, LATEST).fetch(9)


def test_atomic_checkpoints_are_verified_before_they_are_read(tmp_path: Path) -> None:
    """With atomic checkpoints a damaged one is passed over: older weights, not broken ones; no whole one is an error."""
    disk = DiskWeights(tmp_path, JobConfig(weight_sync="disk", disk_source="latest", posture=Posture(atomic_checkpoint=True)))
    for step in (4, 6):
        atomic_checkpoint.save_checkpoint(tmp_path / "recover", STATE, step)
    newest, older = sorted((tmp_path / "recover").glob("checkpoint_*"), reverse=True)
    (newest / "model.pt").write_bytes(b"short")
    assert disk.fetch(9)[1] == 5
    (older / "model.pt").write_bytes(b"short")
    with pytest.raises(InferenceEngineError, match=r"UpdateWeightError: .*none of 2 checkpoint\(s\)"):
        disk.fetch(9)


def test_a_shard_that_cannot_be_saved_is_an_upload_error(tmp_path: Path) -> None:
    """What the file system refuses is UploadWeightsError, with its reason."""
    (tmp_path / "weights").write_text("in the way")
    with pytest.raises(TrainEngineError, match=r"UploadWeightsError: .*version 1: "):
        DiskWeights(tmp_path, FRESH).publish({}, 0, 1)


@pytest.mark.parametrize("wrong", [{"weight_sync": "pigeon"}, {"disk_source": "oldest"}])
def test_unknown_ways_are_refused(wrong: dict[str, str]) -> None:
    """A word that is none is refused with those that are allowed."""
    with pytest.raises(ValueError, match="allowed: "):
        job_config(wrong)


SIZES = {"train_workers": 2, "rollout_workers": 1, "prompts_per_step": 4, "samples_per_prompt": 4}


def _run(folder: JobFolder, **env: str) -> int:
    scheduler = folder.start("rlhf.scheduler")
    code = folder.start("rlhf.job", **env).wait(200)
    scheduler.terminate()
    assert scheduler.wait(60) == 0 and folder.living() == []
    return code


@pytest.mark.job
def test_a_killed_job_goes_on_after_its_latest_checkpoint(job_folder: Callable[[JobConfig], JobFolder]) -> None:
    """kill -9 of controller and scheduler: nothing is left running; started again, on fewer ranks, it goes on where it was."""
    shared = {"weight_sync": "disk", "periodic_save_interval": 2, "recover_mode": "auto"}
    folder = job_folder(JobConfig(**SIZES, **shared, steps=500))
    scheduler, job = folder.start("rlhf.scheduler"), folder.start("rlhf.job")
    folder.wait_for_line("controller", "start save periodic checkpoint, epoch:0, epoch_step: 2,", job)
    folder.wait_for_line("controller", "start to update weight, step: 3,", job)
    for process in (job, scheduler):
        process.kill()
        process.wait()
    while folder.living():
        time.sleep(0.05)
    first = folder.log("controller")
    assert "recover: begin at step: 0," in first and "disk update weight succeeded, step: 2" in first
    kept = [path.name for path in (folder.path / "recover").glob("epoch*")]
    assert {"epoch0epochstep0globalstep0", "epoch0epochstep2globalstep2"} <= set(kept)
    assert load_checkpoint(folder.path / "recover" / "epoch0epochstep2globalstep2")[1] == 2
    latest = load_checkpoint(folder.path / "recover")[1]
    JobConfig(**{**SIZES, "train_workers": 1}, **shared, steps=latest + 3).save(folder.path / "config.json")
    assert _run(folder) == 0, folder.log("controller")
    again = folder.log("controller")[len(first) :]
    assert f"recover: begin at step: {latest + 1}," in again
    assert [step for step in range(latest + 5) if f"train succeeded, step: {step}," in again] == [latest + 1, latest + 2]
    assert set(folder.stats("rollout0", "weights_version")[-2:]) == {latest + 2}
    assert list((folder.path / "weights").glob(f"v{latest + 2}")) == []


@pytest.mark.job
def test_a_torn_latest_checkpoint_comes_out_in_the_next_update(job_folder: Callable[[JobConfig], JobFolder]) -> None:
    """A save cut off by a full store is a warning; the next weights update reads what is left and fails with torch's error."""
    config = JobConfig(**{**SIZES, "train_workers": 1}, weight_sync="disk", disk_source="latest", steps=9)
    folder = job_folder(config)

    def fill() -> None:
        resource.prlimit(folder.registration("train0")["pid"], resource.RLIMIT_FSIZE, (200_000, 200_000))

    hold = Hold(folder, "checkpoint", 2, fill)
    assert _run(folder, STAGE_SOCKET=str(hold.path), STAGE_DEADLINE_S="60") == 1
    log = folder.log("controller")
    assert "save of latest_checkpoint failed: TrainEngineError: SaveError: " in log
    assert "train succeeded, step: 2," in log and "start to update weight, step: 3," in log
    assert [stage for stage, phase in hold.seen if phase == "error"] == ["weights_update"]
    path = folder.path / "recover" / "latest_checkpoint" / "model.pt"
    assert path.stat().st_size <= 200_000
    with pytest.raises(UNREADABLE) as torchs:
        torch.load(path, weights_only=True)
    assert f"UpdateWeightError: Failed to update weights from disk: {type(torchs.value).__name__}" in log.splitlines()[-1]
