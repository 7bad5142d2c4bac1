"""The train engine: shards, gradients over ranks, checkpoints."""

import multiprocessing
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rlhf.batch import DistributedBatchMemory
from rlhf.config import JobConfig
from rlhf.engines.reference import ReferenceEngine
from rlhf.engines.rollout import RolloutEngine
from rlhf.engines.train import TrainEngine
from rlhf.errors import TrainEngineError
from rlhf.prompts import sample_prompts
from rlhf.task import score

CONFIG = JobConfig(seed=2, train_workers=1, prompts_per_step=6, samples_per_prompt=4)


def rollouts(step: int) -> DistributedBatchMemory:
    """A batch as a step makes it: 6 groups of 4 rows."""
    batch = RolloutEngine(CONFIG, 0).generate(sample_prompts(CONFIG, step), step, score)
    batch["ref_logprobs"] = ReferenceEngine(CONFIG, 0).compute_logprobs(batch)
    return batch


def alone() -> TrainEngine:
    engine = TrainEngine(CONFIG, 0)
    engine.initialize("", 0)
    return engine


def shares(step: int) -> list[DistributedBatchMemory]:
    """How two ranks share the batch of a step: equal, uneven, and all to one."""
    batch = rollouts(step)
    cut = (12, 20, 24)[step]
    return [batch.rows(slice(0, cut)), batch.rows(slice(cut, None))]


def train_rank(rank: int, port: int, folder: str) -> None:
    """One of two ranks: train three batches, write parameters and figures."""
    engine = TrainEngine(replace(CONFIG, train_workers=2), rank)
    engine.initialize("127.0.0.1", port)
    figures = [engine.train_batch(shares(step)[rank], step) for step in range(3)]
    failure = ""
    try:
        engine.train_batch(rollouts(0).rows(slice(0, 0)), 3)
    except TrainEngineError as error:
        failure = str(error)
    parameters = {name: p.detach() for name, p in engine.model.named_parameters()}
    torch.save(
        {"figures": figures, "parameters": parameters, "shard": engine.shard(), "failure": failure}, f"{folder}/{rank}.pt"
    )
    engine.close()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory) -> list[dict]:
    """What each of two real gloo ranks had at its end."""
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    ranks = [context.Process(target=train_rank, args=(rank, port, str(folder))) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(timeout=120)
    codes = [process.exitcode for process in ranks]
    for process in ranks:
        process.kill()
    assert codes == [0, 0]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def felt(name: str, parameter: torch.Tensor) -> torch.Tensor:
    """A parameter without what the loss does not depend on: keys' biases, whose gradient is rounding, blown up by AdamW."""
    return torch.stack(parameter.chunk(3))[[0, 2]] if name.endswith("qkv.bias") else parameter


def test_two_ranks_with_uneven_and_empty_shares_train_as_one_process_on_the_whole_batch(two_ranks):
    """Parameters, loss, KL and gradient norm are those of a single process, however the samples were shared out."""
    engine = alone()
    whole = [engine.train_batch(rollouts(step), step) for step in range(3)]
    for rank in two_ranks:
        for name, parameter in engine.model.named_parameters():
            torch.testing.assert_close(
                felt(name, rank["parameters"][name]), felt(name, parameter.detach()), atol=2e-4, rtol=1e-3
            )
        for ours, theirs in zip(whole, rank["figures"], strict=True):
            assert theirs["loss"] == pytest.approx(ours["loss"], abs=1e-4)
            assert theirs["kl"] == pytest.approx(ours["kl"], rel=1e-2, abs=1e-6)
            assert theirs["grad_norm"] == pytest.approx(ours["grad_norm"], rel=1e-2)
    assert [[figures["samples"] for figures in rank["figures"]] for rank in two_ranks] == [[12, 20, 24], [12, 4, 0]]


def test_ranks_end_with_bitwise_equal_parameters(two_ranks):
    """Replicas never drift: both apply the same reduced gradient."""
    first, second = (rank["parameters"] for rank in two_ranks)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_batch_without_any_sample_is_an_error_on_every_rank(two_ranks):
    """No rank waits for the others over an empty batch; all say why."""
    assert {rank["failure"] for rank in two_ranks} == {"TrainEngineError: TrainBatchError: no rank has a sample to train on"}


def test_shards_are_disjoint_complete_and_balanced(two_ranks):
    """The ranks' shards make up the parameters, each once, and differ in size by less than a tenth."""
    first, second = (rank["shard"] for rank in two_ranks)
    parameters = two_ranks[0]["parameters"]
    assert not first.keys() & second.keys()
    assert first.keys() | second.keys() == parameters.keys()
    assert all(torch.equal(tensor, parameters[name]) for name, tensor in {**first, **second}.items())
    sizes = [sum(tensor.numel() for tensor in shard.values()) for shard in (first, second)]
    assert max(sizes) < 1.1 * min(sizes)


def test_training_moves_every_parameter_and_a_shard_is_a_copy():
    """Each parameter gets a gradient; a shard taken before a step does not change with it."""
    engine = alone()
    before = engine.shard()
    engine.train_batch(rollouts(0), 0)
    after = engine.shard()
    assert not [name for name in before if torch.equal(before[name], after[name])]


def test_a_resumed_engine_goes_on_exactly_as_the_one_that_was_not_interrupted(tmp_path: Path):
    """Model and optimizer state survive save and load, bit for bit."""
    engine = alone()
    engine.train_batch(rollouts(0), 0)
    sizes = engine.save(tmp_path, 0)
    assert sizes["model.pt"] > CONFIG.parameter_bytes
    assert sizes["optimizer.pt"] > 2 * CONFIG.parameter_bytes
    resumed = alone()
    assert resumed.load(tmp_path) == 0
    for each in (engine, resumed):
        each.train_batch(rollouts(1), 1)
    one, two = engine.shard(), resumed.shard()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_only_rank_0_writes(tmp_path: Path):
    """All ranks hold the same state; one copy is enough and none is overwritten by another."""
    assert TrainEngine(replace(CONFIG, train_workers=2), 1).save(tmp_path, 3) == {}
    assert list(tmp_path.iterdir()) == []
