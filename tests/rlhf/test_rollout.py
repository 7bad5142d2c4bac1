"""The rollout engine."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from rlhf.config import JobConfig
from rlhf.engines.rollout import RolloutEngine
from rlhf.engines.train import TrainEngine
from rlhf.errors import InferenceEngineError
from rlhf.prompts import sample_prompts
from rlhf.task import score

CONFIG = JobConfig(seed=4, train_workers=1, prompts_per_step=6, samples_per_prompt=3)


def weights() -> dict[str, torch.Tensor]:
    engine = TrainEngine(replace(CONFIG, seed=9), 0)
    engine.initialize("", 0)
    return engine.shard()


def test_rollouts_have_the_agreed_columns_and_every_prompt_its_samples():
    """Shapes, masks and groups are as other processes expect them; groups are whole and consecutive."""
    batch = RolloutEngine(CONFIG, 0).generate(sample_prompts(CONFIG, 1), 1, score)
    m, t = 18, 15
    shapes = {key: tuple(batch[key].shape) for key in batch}
    assert shapes == {
        **dict.fromkeys(("input_ids", "attention_mask", "loss_mask"), (m, t)),
        "logprobs": (m, t - 1),
        **dict.fromkeys(("rewards", "exact", "group_id", "seqlen"), (m,)),
    }
    assert batch["group_id"].tolist() == [group for group in range(6) for _ in range(3)]
    assert torch.equal(batch["seqlen"], batch["attention_mask"].sum(dim=1))
    assert bool((batch["attention_mask"] >= batch["loss_mask"]).all()) and not bool(batch["loss_mask"][:, :8].any())
    assert bool((batch["logprobs"][batch["loss_mask"][:, 1:] == 1] < 0).all())


def test_the_same_seed_rank_and_step_give_the_same_samples_and_any_other_different_ones():
    """Rollouts repeat exactly, and no two ranks or steps share a stream of random numbers."""

    def run(config=CONFIG, rank=0, step=1):
        engine = RolloutEngine(config, rank)
        engine.load_weights(weights(), 0)
        return engine.generate(sample_prompts(CONFIG, 1), step, score)

    first, again = run(), run()
    assert all(torch.equal(first[key], again[key]) for key in first)
    for other in (run(rank=1), run(step=2), run(config=replace(CONFIG, seed=5))):
        assert not torch.equal(first["input_ids"], other["input_ids"])


def test_the_scorer_is_asked_once_with_the_texts_and_its_figures_are_the_rewards():
    """Rewards come from the caller's scorer, in row order."""
    calls = []

    def scorer(prompts, answers):
        calls.append((prompts, answers))
        return [float(row) for row in range(len(prompts))]

    batch = RolloutEngine(CONFIG, 0).generate(sample_prompts(CONFIG, 1), 1, scorer)
    [(prompts, answers)] = calls
    assert prompts[0] == prompts[2] != prompts[3] and prompts[0].isdigit()
    assert len(answers) == 18
    assert batch["rewards"].tolist() == [float(row) for row in range(18)]


def test_no_prompts_give_no_samples_but_all_columns():
    """A worker with an empty share answers an empty batch that can be concatenated with the others'."""
    engine = RolloutEngine(CONFIG, 0)
    full = engine.generate(sample_prompts(CONFIG, 1), 1, score)
    empty = engine.generate(sample_prompts(CONFIG, 1).rows(slice(0, 0)), 1, score)
    assert len(empty) == 0
    assert {key: (empty[key].shape[1:], empty[key].dtype) for key in empty} == {
        key: (full[key].shape[1:], full[key].dtype) for key in full
    }


def test_weights_are_taken_whole_or_not_at_all():
    """Missing, strange or misshapen weights are refused by name, and the old weights and version stay."""
    engine = RolloutEngine(CONFIG, 0)
    before = {name: tensor.clone() for name, tensor in engine.model.state_dict().items()}
    good = weights()
    short = {name: tensor for name, tensor in good.items() if name != "head.weight"}
    for bad, reason in (
        (short, "missing weights head.weight"),
        ({**good, "extra": torch.zeros(1)}, "strange weights extra"),
        ({**good, "head.weight": torch.zeros(2, 2)}, r"head.weight is \[2, 2\], expected \[13, 64\]"),
    ):
        with pytest.raises(InferenceEngineError, match=f"InferenceEngineError: UpdateWeightError: version 3: {reason}"):
            engine.load_weights(bad, 3)
        assert engine.version == -1
        assert all(torch.equal(before[name], tensor) for name, tensor in engine.model.state_dict().items())
    engine.load_weights(good, 3)
    assert engine.version == 3
    assert all(torch.equal(good[name], tensor) for name, tensor in engine.model.state_dict().items())


STARVED = """
import resource
from pathlib import Path
from rlhf.config import JobConfig
from rlhf.engines.rollout import RolloutEngine
from rlhf.prompts import sample_prompts
from rlhf.task import score

config = JobConfig(kv_cache_mib=256)
engine = RolloutEngine(config, 0)
run = lambda: engine.generate(sample_prompts(config, 0), 0, score)
samples = len(run())
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), resource.RLIM_INFINITY))
try:
    run()
except RuntimeError as error:
    print("refused:", error)
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print("again", len(run()) == samples)
"""


def test_a_memory_limit_raises_torchs_own_error_and_the_engine_lives_on():
    """The cache is really allocated: under a limit that leaves too little, torch says so; without it sampling works again."""
    done = subprocess.run([sys.executable, "-c", STARVED], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "DefaultCPUAllocator: can't allocate memory: you tried to allocate 268435456 bytes" in done.stdout
    assert "again True" in done.stdout
