"""Going on where a killed job stopped."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rlhf.config import HARDENED, JobConfig, Posture
from rlhf.engines.train import TrainEngine
from rlhf.errors import TrainEngineError
from rlhf.prompts import sample_prompts
from rlhf.recover import recover_info, take_up
from tests.rlhf.loop import rollouts

CONFIG = JobConfig(seed=21, train_workers=1, rollout_workers=1, prompts_per_step=4, samples_per_prompt=4, posture=HARDENED)
STEPS, INTERVAL = 30, 2


def train(config: JobConfig, folder: Path, steps: int = STEPS) -> TrainEngine:
    """The job in one process: go on after the latest checkpoint if there is one. Each step's prompts are put down."""
    engine = TrainEngine(config, 0)
    engine.initialize("", 0)
    try:
        first = engine.load(folder) + 1
    except FileNotFoundError:
        first = 0
    for step, batch in rollouts(config, engine, range(first, steps)):
        with (folder / "prompts").open("a") as file:
            file.write(f"{step} {hash_of(batch['input_ids'])}\n")
        engine.train_batch(batch, step)
        if step % INTERVAL == 0:
            engine.save(folder, step)
    return engine


def train_and_wait(config: JobConfig, folder: Path) -> None:
    """A process that only ends by being killed, however late that comes."""
    train(config, folder)
    signal.pause()


def hash_of(tensor: torch.Tensor) -> str:
    return "-".join(str(n) for n in tensor.sum(dim=0).tolist())


def put_down(folder: Path) -> list[str]:
    path = folder / "prompts"
    return path.read_text().splitlines() if path.exists() else []


def kill_at(folder: Path, lines: int, delay_s: float, config: JobConfig) -> None:
    """Run the job in a process and kill it `delay_s` after it has put down so many steps."""
    process = multiprocessing.get_context("forkserver").Process(target=train_and_wait, args=(config, folder))
    process.start()
    while len(seen := put_down(folder)) < lines and not (seen and seen[-1].startswith(f"{STEPS - 1} ")):
        assert process.is_alive(), f"ended with {process.exitcode}"
        time.sleep(0.002)
    time.sleep(delay_s)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Weights in the end and samples by step of a run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    return train(CONFIG, folder).shard(), dict(line.split() for line in put_down(folder))


def test_a_job_killed_again_and_again_ends_as_if_it_had_not_been(tmp_path: Path, uninterrupted):
    """Killed three times at random moments, saves included: no step's samples differ, and the weights are the same bits."""
    weights, samples = uninterrupted
    source = random.Random(time.time_ns())
    for _ in range(3):
        begun = len(put_down(tmp_path))
        kill_at(tmp_path, begun + source.randint(1, 3), source.uniform(0, 0.1), CONFIG)
        last = int(put_down(tmp_path)[-1].split()[0])
        assert begun or last < STEPS - 1, "killed only after its end"
        engine = TrainEngine(CONFIG, 0)
        engine.initialize("", 0)
        if last > INTERVAL:
            assert last - INTERVAL <= engine.load(tmp_path) <= last, "more than one interval is lost"
    ended = train(CONFIG, tmp_path).shard()
    assert all(torch.equal(weights[name], ended[name]) for name in weights)
    again = [line.split() for line in put_down(tmp_path)]
    assert all(samples[step] == seen for step, seen in again)
    assert {step for step, _ in again} == set(samples)


def test_the_legacy_way_begins_again_when_its_only_copy_is_gone(tmp_path: Path, uninterrupted):
    """Killed between removing the old checkpoint and writing the new one, the legacy job has none, and starts over."""
    config = replace(CONFIG, posture=Posture())
    engine = train(config, tmp_path, steps=3)
    good = tmp_path / "latest_checkpoint_even"
    engine.load(tmp_path)
    for path in good.iterdir():
        path.unlink()
    (tmp_path / "prompts").unlink()
    ended = train(config, tmp_path).shard()
    assert put_down(tmp_path)[0].startswith("0 ")
    assert all(torch.equal(tensor, ended[name]) for name, tensor in uninterrupted[0].items())


def test_the_place_in_the_data_is_that_after_the_step():
    """The cursor counts the prompts drawn, and the next step's prompts are those the job would have drawn anyway."""
    info = recover_info(CONFIG, 6)
    assert (info["step"], info["data_cursor"]) == (6, 7 * CONFIG.prompts_per_step)
    step = take_up(info, CONFIG) + 1
    assert torch.equal(sample_prompts(CONFIG, step)["prompt_ids"], sample_prompts(CONFIG, 7)["prompt_ids"])


def test_random_numbers_go_on_where_they_were():
    """What is drawn after taking up the recover info is what was drawn after writing it."""
    torch.manual_seed(5)
    info = recover_info(CONFIG, 0)
    drawn = torch.rand(3)
    torch.manual_seed(6)
    take_up(info, CONFIG)
    assert torch.equal(torch.rand(3), drawn)


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        ({"seed": 22}, "the checkpoint of step 1 has seed 21, this job would have 22"),
        ({"prompts_per_step": 5}, "the checkpoint of step 1 has data_cursor 8, this job would have 10"),
    ],
)
def test_a_checkpoint_of_another_job_is_refused(other: dict[str, int], sentence: str, tmp_path: Path):
    """A job that would go on with other prompts than it began with says so, and its weights stay as they were."""
    engine = TrainEngine(CONFIG, 0)
    engine.initialize("", 0)
    engine.save(tmp_path, 1)
    stranger = TrainEngine(replace(CONFIG, **other), 0)
    stranger.initialize("", 0)
    before = stranger.shard()
    with pytest.raises(TrainEngineError, match=f"^TrainEngineError: RecoverError: {sentence}$"):
        stranger.load(tmp_path)
    assert all(torch.equal(before[name], tensor) for name, tensor in stranger.shard().items())
