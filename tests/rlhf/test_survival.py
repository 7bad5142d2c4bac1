"""Whole jobs that lose a process and end as if they had not: every role, every layout, killed or silenced."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import pytest
import torch

from rlhf.config import HARDENED, JobConfig
from rlhf.resilience.checkpoint import load_checkpoint
from rlhf.topology import components
from tests.rlhf.job_folder import Hold, JobFolder
from tests.rlhf.told import check_told

pytestmark = pytest.mark.job

SMALL = JobConfig(steps=5, prompts_per_step=4, samples_per_prompt=4, latest_save_interval=2, posture=HARDENED)
MakeFolder = Callable[..., JobFolder]
Losses = Sequence[tuple[str, int, str, int]]


def finish(folder: JobFolder, job: subprocess.Popen[bytes]) -> int:
    """Exit code of the job; then the scheduler is ended and nothing may be left."""
    code = job.wait(200)
    folder.processes["rlhf.scheduler"].terminate()
    assert folder.processes["rlhf.scheduler"].wait(60) == 0, folder.log("scheduler")
    assert folder.living() == []
    return code


def results(folder: JobFolder) -> tuple[dict[int, float], dict[int, float], dict[str, torch.Tensor]]:
    """Reward and loss of each step, and the weights of the last checkpoint."""
    state, _ = load_checkpoint(folder.path / "recover")
    return folder.by_step("controller", "reward"), folder.by_step("controller", "loss"), state["model"]


def run(folder: JobFolder, losses: Losses) -> None:
    """The job to its good end, with a signal to a component at the enter of a stage of a step, for each of `losses`."""
    os.environ["JOB_DIR"] = str(folder.path)
    hold = Hold(folder, "none", -1, lambda: None)
    for stage, step, component, number in losses:
        hold.also(stage, step, partial(send, folder, component, number))
    folder.start("rlhf.scheduler")
    job = folder.start("rlhf.job", STAGE_SOCKET=str(hold.path), STAGE_DEADLINE_S="60")
    assert finish(folder, job) == 0, folder.log("controller")


def send(folder: JobFolder, component: str, number: int) -> None:
    os.kill(folder.registration(component)["pid"], number)


#: Each role killed once, in the stage that needs it.
KILLED = [
    ("weights_update", 1, "metaserver", signal.SIGKILL),
    ("weights_update", 2, "rollout0", signal.SIGKILL),
    ("rollout", 2, "reward", signal.SIGKILL),
    ("rollout", 3, "rollout1", signal.SIGKILL),
    ("reference", 3, "reference0", signal.SIGKILL),
    ("train", 3, "train1", signal.SIGKILL),
    ("checkpoint", 4, "train0", signal.SIGKILL),
]
#: The same without the MetaServer, which stands idle then.
ENGINES_KILLED = [loss for loss in KILLED if loss[2] != "metaserver"]
TRAINERS_KILLED = [loss for loss in KILLED if loss[2].startswith("train")]
#: The MetaServer is a thread of the controller's.
INSIDE = replace(HARDENED, metaserver="controller")
SFT = {"workload": "sft", "rollout_workers": 0, "reference_workers": 0}
#: A train worker without a fellow: there is the checkpoint of step 0, and nothing before that.
ALONE = [("train", 3, "train0", signal.SIGKILL), ("weights_update", 4, "train0", signal.SIGKILL)]
#: Each kind of process stopped once: alive, connected, and silent.
STOPPED = [
    ("rollout", 1, "reward", signal.SIGSTOP),
    ("rollout", 2, "rollout1", signal.SIGSTOP),
    ("train", 3, "train0", signal.SIGSTOP),
    ("weights_update", 4, "metaserver", signal.SIGSTOP),
]


@pytest.mark.parametrize(
    ("layout", "losses"),
    [
        pytest.param({}, KILLED, id="apart"),
        pytest.param({"colocated": True}, KILLED, id="colocated"),
        pytest.param({"weight_sync": "disk"}, ENGINES_KILLED, id="disk", marks=pytest.mark.long),
        pytest.param({"weight_sync": "disk", "disk_source": "latest"}, ENGINES_KILLED, id="latest", marks=pytest.mark.long),
        pytest.param({"shard_size": 2}, KILLED, id="sharded", marks=pytest.mark.long),
        pytest.param({"train_workers": 1, "latest_save_interval": 4}, ALONE, id="alone", marks=pytest.mark.long),
        pytest.param({"posture": INSIDE}, ENGINES_KILLED, id="store-inside", marks=pytest.mark.long),
        pytest.param(SFT, TRAINERS_KILLED, id="sft", marks=pytest.mark.long),
        pytest.param({}, STOPPED, id="stopped", marks=pytest.mark.long),
        pytest.param({"colocated": True}, STOPPED, id="colocated-stopped", marks=pytest.mark.long),
    ],
)
def test_a_job_that_loses_one_of_each_ends_as_if_it_had_not(layout: dict, losses: Losses, job_folder: MakeFolder) -> None:
    """Rewards, losses and weights are those of the undisturbed job, which warns of nothing; nobody is restarted in vain."""
    config = replace(SMALL, **layout)
    whole, folder = job_folder(config, "whole"), job_folder(config, "job")
    run(whole, [])
    assert "WARNING" not in whole.log("controller") and "ERROR" not in whole.log("controller")
    run(folder, losses)
    assert folder.stats("controller", "restarts_count") == [float(n) for n in range(len(losses) + 1)]
    assert folder.stats("controller", "restart_success_ratio") == [1.0] * len(losses)
    same(results(folder), results(whole))
    if config.workload == "grpo" and config.weight_sync == "metaserver":
        check_told(folder, "restart", "restarted", "heartbeats", "failed", *(["colocated"] if config.colocated else []))


def same(seen: tuple, expected: tuple) -> None:
    """Rewards and losses step by step, and every weight, are equal to the last bit."""
    assert seen[:2] == expected[:2]
    assert seen[2].keys() == expected[2].keys()
    assert all(torch.equal(tensor, expected[2][name]) for name, tensor in seen[2].items())


def kill_all(folder: JobFolder, source: random.Random) -> None:
    """Start the job and kill controller and scheduler some time after a step or two; the kernel ends what they started."""
    said = "start to update weight, step: "
    begun = folder.log("controller").count(said) + source.randint(1, 2)
    scheduler, job = folder.start("rlhf.scheduler"), folder.start("rlhf.job")
    while folder.log("controller").count(said) < begun and job.poll() is None:
        time.sleep(0.002)
    time.sleep(source.uniform(0, 0.2))
    for process in (job, scheduler):
        process.kill()
        process.wait()
    deadline = time.monotonic() + 30
    while folder.living():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.long
@pytest.mark.parametrize(
    "layout",
    [{}, {"colocated": True}, {"weight_sync": "disk", "disk_source": "latest"}, {"shard_size": 2}, {"reference_workers": 2}],
    ids=["apart", "colocated", "disk", "sharded", "two-references"],
)
def test_a_job_killed_as_a_whole_goes_on_and_ends_as_if_it_had_not(layout: dict, job_folder: MakeFolder) -> None:
    """Killed three times at random moments and started again: the weights, and each step's reward and loss, are the same.

    Figures are told at the end of a step: those of one that was saved and not ended are never told.
    """
    config = replace(SMALL, steps=9, recover_mode="auto", **layout)
    whole, folder = job_folder(config, "whole"), job_folder(config, "job")
    run(whole, [])
    source = random.Random(time.time_ns())
    os.environ["JOB_DIR"] = str(folder.path)
    for _ in range(3):
        kill_all(folder, source)
    run(folder, [])
    assert folder.log("controller").count("recover: begin at step: ") == 4
    rewards, losses, weights = results(folder)
    expected = [{step: figure for step, figure in told.items() if step in rewards} for told in results(whole)[:2]]
    assert len(rewards) >= config.steps - 3
    same((rewards, losses, weights), (*expected, results(whole)[2]))


@pytest.mark.long
@pytest.mark.parametrize("layout", [{}, {"colocated": True}, {"shard_size": 2}], ids=["apart", "colocated", "sharded"])
def test_losses_at_any_moment(layout: dict, job_folder: MakeFolder) -> None:
    """Whoever is killed, in whatever it is doing, twice each at most: the job ends as if nobody had been."""
    config = replace(SMALL, steps=30, **layout)
    whole, folder = job_folder(config, "whole"), job_folder(config, "job")
    run(whole, [])
    os.environ["JOB_DIR"] = str(folder.path)
    folder.start("rlhf.scheduler")
    job = folder.start("rlhf.job")
    folder.wait_for_line("controller", "start to rollout, step: 0,", job)
    source = random.Random(time.time_ns())
    victims = 2 * [name for name in components(config) if name not in ("controller", "scheduler")]
    source.shuffle(victims)
    killed = []
    while victims and job.poll() is None:
        time.sleep(source.uniform(0.2, 0.8))
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):  # it is being started again just now
            send(folder, victims[-1], signal.SIGKILL)
            killed.append(victims.pop())
    assert finish(folder, job) == 0, f"{killed}\n{folder.log('controller')}"
    assert killed
    same(results(folder), results(whole))
