"""Which checkpoint a job goes on from, and what it makes of one that is damaged."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlhf.config import HARDENED, JobConfig, Posture, job_config
from rlhf.engines.train import TrainEngine
from rlhf.errors import TrainEngineError
from rlhf.stats import StatsTracker
from rlhf.workers import TrainWorker
from tests.rlhf.job_folder import JobFolder
from tests.rlhf.loop import rollouts
from tests.rlhf.ranks import run_ranks

BATCH = {"prompts_per_step": 4, "samples_per_prompt": 4}
SMALL = {"train_workers": 1, "model_dim": 8, "model_heads": 1, "model_layers": 1}
MakeWorker = Callable[[Posture], TrainWorker]


@pytest.fixture
def worker(job_folder: Callable[[JobConfig], JobFolder], tmp_path: Path) -> MakeWorker:
    """A train worker with an engine, in this process; its checkpoints lie in `$JOB_DIR/recover`."""

    def make(posture: Posture) -> TrainWorker:
        config = JobConfig(**SMALL, posture=posture)
        job_folder(config)
        made = TrainWorker("train0", 0, config, StatsTracker(tmp_path / "stats.jsonl", "train0"))
        made.initialize({}, "127.0.0.1", 0)
        return made

    return make


def save(worker: TrainWorker, step: int, **kept: int) -> None:
    """Save a state that tells the step: its first parameter is full of it."""
    with torch.no_grad():
        next(iter(worker._engine.model.parameters())).fill_(float(step))
    worker.save({}, step=step, **kept)


def state(worker: TrainWorker) -> float:
    return float(next(iter(worker._engine.model.parameters())).detach().mean())


def recover(worker: TrainWorker, source: str) -> int:
    """The step; and the state must be that step's."""
    step = int(worker.recover({}, source=source)[0]["step"])
    assert step == -1 or state(worker) == step
    return step


@pytest.mark.parametrize("posture", [Posture(), HARDENED], ids=["legacy", "hardened"])
def test_a_job_goes_on_from_either(posture: Posture, worker: MakeWorker) -> None:
    """From the latest, the newest periodic, or a periodic one by name; with none, from the beginning."""
    train = worker(posture)
    assert [recover(train, source) for source in ("latest", "periodic")] == [-1, -1]
    for step in (2, 10, 4):
        save(train, step, epoch=0)
    save(train, 12)
    assert recover(train, "latest") == 12
    assert recover(train, "periodic") == 10
    assert recover(train, "epoch0epochstep2globalstep2") == 2
    with pytest.raises(TrainEngineError, match="RecoverError: there is no checkpoint epoch0epochstep6globalstep6"):
        recover(train, "epoch0epochstep6globalstep6")


@pytest.mark.parametrize("source", ["newest", "epoch1", "../recover", "epoch0epochstep2globalstep2/.."])
def test_other_sources_are_refused(source: str) -> None:
    """A word that names no checkpoint is refused with those that do."""
    with pytest.raises(ValueError, match=r"recover_from is .*; allowed: latest, periodic, or a name like epoch0"):
        job_config({"recover_from": source})


def test_damage_costs_steps_and_is_told(worker: MakeWorker, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever byte is changed, wherever a file ends: the next older whole one is taken, with a warning that names the file."""
    train = worker(HARDENED)
    save(train, 1, epoch=0)
    for step in (2, 4):
        save(train, step)
    job = Path(os.environ["JOB_DIR"])
    newest = (job / "recover" / "latest_checkpoint").resolve()
    files = sorted(newest.iterdir())
    whole = {path: path.read_bytes() for path in files}

    @settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.sampled_from(files), st.floats(0, 1, exclude_max=True), st.integers(0, 8))
    def law(path: Path, where: float, bit: int) -> None:
        content, place = whole[path], int(where * len(whole[path]))
        flipped = content[:place] + bytes([content[place] ^ 1 << (bit & 7)]) + content[place + 1 :]
        path.write_bytes(content[:place] if bit == 8 else flipped)
        caplog.clear()
        assert recover(train, "latest") == 2
        warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert len(warnings) == 1 and (path.name in warnings[0] or "the manifest" in warnings[0])
        path.write_bytes(content)

    law()
    assert recover(train, "latest") == 4


def test_the_last_resort_is_a_periodic_checkpoint_and_then_an_error(worker: MakeWorker) -> None:
    """With no whole latest one the newest periodic that is no later is taken; a later one is of a course given up. With none
    whole at all the job does not begin again in silence."""
    train = worker(HARDENED)
    for step in (1, 3, 9):
        save(train, step, epoch=0)
    save(train, 4)
    folder = Path(os.environ["JOB_DIR"]) / "recover"
    next(folder.glob("checkpoint_*/model.pt")).write_bytes(b"")
    assert recover(train, "latest") == 3
    for path in folder.glob("epoch*/checkpoint_*/model.pt"):
        path.write_bytes(b"")
    with pytest.raises(TrainEngineError, match=r"RecoverError: the latest checkpoint does not load: .*none of 3"):
        recover(train, "latest")


def test_the_legacy_way_warns_and_begins_again(worker: MakeWorker, caplog: pytest.LogCaptureFixture) -> None:
    """A latest checkpoint that does not load is as good as none, whatever older ones there are."""
    train = worker(Posture())
    save(train, 1, epoch=0)
    save(train, 2)
    model = Path(os.environ["JOB_DIR"]) / "recover" / "latest_checkpoint" / "model.pt"
    model.write_bytes(model.read_bytes()[:100])
    assert recover(train, "latest") == -1
    assert "the latest checkpoint does not load" in caplog.text


def test_a_rank_remembers_the_state_before_the_step_it_is_in(worker: MakeWorker, tmp_path: Path) -> None:
    """What a rank puts down for its fellows is the state after the step asked for, or a refusal: never one in between."""
    engine = worker(HARDENED)._engine
    parameter = next(iter(engine.model.parameters()))
    engine.step, engine._before = 7, (6, engine._state())
    with torch.no_grad():
        parameter.fill_(1.0)
    for step in (6, 7):
        engine.rescue(tmp_path / str(step), step)
    assert (engine.load(tmp_path / "7"), float(parameter.detach().mean())) == (7, 1.0)
    assert engine.load(tmp_path / "6") == 6 and float(parameter.detach().mean()) != 1.0
    engine.step, engine._before = 6, (6, engine._state())  # it is in step 7, or has failed there
    with torch.no_grad():
        parameter.fill_(2.0)
    shutil.rmtree(tmp_path / "6")
    engine.rescue(tmp_path / "6", 6)
    assert engine.load(tmp_path / "6") == 6 and float(parameter.detach().mean()) != 2.0
    with pytest.raises(TrainEngineError, match=r"SaveError: rank 0 has the state after \[6\], not 5"):
        engine.rescue(tmp_path / "5", 5)


def left_alone(rank: int, port: int, folder: str) -> dict[str, torch.Tensor]:
    """One of two ranks. Rank 1 ends after a step; rank 0 finds out in the middle of the next, and puts its state down."""
    config = JobConfig(**{**SMALL, "train_workers": 2}, **BATCH, posture=HARDENED)
    engine = TrainEngine(config, rank)
    engine.initialize("127.0.0.1", port)
    for step, batch in rollouts(config, engine, range(2)):
        before = {name: tensor.detach().clone() for name, tensor in engine.model.named_parameters()}
        if (rank, step) == (1, 1):
            break
        try:
            engine.train_batch(batch.split(2)[rank], step)
        except RuntimeError:
            engine.rescue(Path(folder) / "rescue", 0)
            fresh = TrainEngine(replace(config, train_workers=1), 0)
            fresh.initialize("", 0)
            assert fresh.load(Path(folder) / "rescue") == 0
            return {
                f"{name} {when}": tensor.detach()
                for when, tensors in (("before", before), ("rescued", dict(fresh.model.named_parameters())))
                for name, tensor in tensors.items()
            }
    return {}


def test_a_rank_that_is_left_alone_in_a_step_has_the_state_before_it(tmp_path: Path) -> None:
    """The loss of a rank ends the others' step with an error, at once; what they put down is the step before, bit for bit."""
    alone, _ = run_ranks(left_alone, 2, tmp_path)
    names = {key.split()[0] for key in alone}
    assert names and all(torch.equal(alone[f"{name} before"], alone[f"{name} rescued"]) for name in names)
