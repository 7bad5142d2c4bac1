"""Parameter sharding: replicas of the model in pieces over ranks, against one process that has it whole."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf.batch import DistributedBatchMemory
from rlhf.config import JobConfig
from rlhf.engines.reference import ReferenceEngine
from rlhf.engines.rollout import RolloutEngine
from rlhf.engines.train import TrainEngine
from rlhf.errors import TrainEngineError
from rlhf.prompts import sample_prompts
from rlhf.sft import right_answers
from rlhf.task import score
from tests.rlhf.ranks import run_ranks
from tests.rlhf.tiny_hf import save_llama

WHOLE = JobConfig(seed=2, train_workers=1, prompts_per_step=6, samples_per_prompt=4)
#: Two replicas, each in two pieces.
SHARDED = replace(WHOLE, train_workers=4, shard_size=2)
#: One replica in eight pieces: the 13 rows of the embeddings leave the last rank without any.
THIN = replace(WHOLE, train_workers=8, shard_size=8, prompts_per_step=8)
SFT = {"workload": "sft", "rollout_workers": 0, "reference_workers": 0}


def rollouts(step: int) -> DistributedBatchMemory:
    batch = RolloutEngine(WHOLE, 0).generate(sample_prompts(WHOLE, step), step, score)
    batch["ref_logprobs"] = ReferenceEngine(WHOLE, 0).compute_logprobs(batch)
    return batch


def shares(step: int) -> list[DistributedBatchMemory]:
    """How four ranks share a step's batch: as FFD allots it; with two empty shares of one replica; all to one rank."""
    batch = rollouts(step)
    if step == 0:
        return batch.chunk_by_ffd(WHOLE.samples_per_prompt, 4)
    cuts = ([0, 0, 0, 4, 24], [0, 0, 24, 24, 24])[step - 1]
    return [batch.rows(slice(start, end)) for start, end in pairwise(cuts)]


def parameters(engine: TrainEngine) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in engine.replicas.whole(dict(engine.model.state_dict())).items()}


def pieces(engine: TrainEngine) -> dict[str, torch.Tensor]:
    return {name: parameter.to_local().detach().clone() for name, parameter in engine.model.named_parameters()}


def train_sharded(rank: int, port: int, folder: str) -> dict[str, Any]:
    """One of four ranks: three steps, a checkpoint, a fourth step twice, once after going back to the checkpoint."""
    engine = TrainEngine(SHARDED, rank)
    engine.initialize("127.0.0.1", port)
    seen: dict[str, Any] = {"figures": [engine.train_batch(shares(step)[rank], step) for step in range(3)]}
    seen |= {"parameters": parameters(engine), "shard": engine.shard(), "pieces": pieces(engine)}
    try:
        engine.train_batch(rollouts(0).rows(slice(0, 0)), 3)
    except TrainEngineError as error:
        seen["failure"] = str(error)
    seen["written"] = engine.save(Path(folder), 2)
    torch.distributed.barrier()
    for name in ("went on", "resumed"):
        engine.train_batch(shares(0)[rank], 3)
        seen[name] = pieces(engine)
        if name == "went on":
            seen["loaded"] = engine.load(Path(folder))
    engine.close()
    return seen


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("sharded")
    return [{**rank, "folder": folder} for rank in run_ranks(train_sharded, 4, folder)]


@pytest.fixture(scope="module")
def whole() -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    """Figures and parameters of a single process on the same batches."""
    engine = TrainEngine(WHOLE, 0)
    engine.initialize("", 0)
    return [engine.train_batch(rollouts(step), step) for step in range(3)], parameters(engine)


def test_two_by_two_ranks_train_as_one_process(ranks, whole):
    """Uneven shares, empty ones, all samples on one rank: parameters, loss, KL and gradient norm are the single process's."""
    figures, expected = whole
    for rank in ranks:
        assert rank["parameters"].keys() == expected.keys()
        for name, parameter in expected.items():
            torch.testing.assert_close(rank["parameters"][name], parameter, atol=2e-4, rtol=1e-3)
        for ours, theirs in zip(figures, rank["figures"], strict=True):
            assert theirs["loss"] == pytest.approx(ours["loss"], abs=1e-4)
            assert theirs["kl"] == pytest.approx(ours["kl"], rel=1e-2, abs=1e-6)
            assert theirs["grad_norm"] == pytest.approx(ours["grad_norm"], rel=1e-2)
    samples = [[step["samples"] for step in rank["figures"]] for rank in ranks]
    assert [sum(step) for step in zip(*samples, strict=True)] == [24, 24, 24]
    assert [rank[1:] for rank in samples] == [[0, 0], [0, 24], [4, 0], [20, 0]]


def test_each_rank_holds_half_of_the_model_and_replicas_hold_the_same(ranks):
    """Ranks 0 and 2, and 1 and 3, hold bitwise equal pieces; a replica's two pieces make up the model."""
    total = sum(tensor.numel() for tensor in ranks[0]["parameters"].values())
    for first, second in ((0, 2), (1, 3)):
        assert all(torch.equal(piece, ranks[second]["pieces"][name]) for name, piece in ranks[first]["pieces"].items())
    for rank in ranks:
        assert 0.45 * total < sum(piece.numel() for piece in rank["pieces"].values()) < 0.55 * total
    for name, parameter in ranks[0]["parameters"].items():
        assert torch.equal(torch.cat([ranks[0]["pieces"][name], ranks[1]["pieces"][name]]), parameter)


def test_what_is_uploaded_is_complete_disjoint_and_balanced(ranks):
    """The ranks' shards are whole tensors that make up the parameters, each once, of about equal size."""
    expected = ranks[0]["parameters"]
    names = [name for rank in ranks for name in rank["shard"]]
    assert sorted(names) == sorted(expected)
    assert all(torch.equal(tensor, expected[name]) for rank in ranks for name, tensor in rank["shard"].items())
    sizes = [sum(tensor.numel() for tensor in rank["shard"].values()) for rank in ranks]
    assert max(sizes) < 1.3 * min(sizes)
    rollout = RolloutEngine(WHOLE, 0)
    rollout.load_weights({name: tensor for rank in ranks for name, tensor in rank["shard"].items()}, 2)


def test_a_step_without_any_sample_is_an_error_on_every_rank(ranks):
    """No rank waits for the others; all say why."""
    assert {rank["failure"] for rank in ranks} == {"TrainEngineError: TrainBatchError: no rank has a sample to train on"}


def test_a_sharded_checkpoint_is_written_once_and_leads_back(ranks):
    """Rank 0 alone writes; after going back to it the same step gives the same pieces, bit for bit, on every rank."""
    assert [bool(rank["written"]) for rank in ranks] == [True, False, False, False]
    assert [rank["loaded"] for rank in ranks] == [2] * 4
    for rank in ranks:
        assert all(torch.equal(piece, rank["resumed"][name]) for name, piece in rank["went on"].items())


def test_a_sharded_checkpoint_loads_into_a_whole_model(ranks):
    """Checkpoints hold complete tensors: a job may go on with another layout, with weights and moments as they were."""
    engine = TrainEngine(WHOLE, 0)
    engine.initialize("", 0)
    assert engine.load(ranks[0]["folder"]) == 2
    assert all(torch.equal(tensor, ranks[0]["parameters"][name]) for name, tensor in parameters(engine).items())
    engine.train_batch(rollouts(0), 3)
    went_on = {name: torch.cat([ranks[0]["went on"][name], ranks[1]["went on"][name]]) for name in parameters(engine)}
    for name, tensor in parameters(engine).items():
        torch.testing.assert_close(tensor, went_on[name], atol=2e-4, rtol=1e-3)


def train_thin(rank: int, port: int, folder: str) -> dict[str, Any]:
    """One of eight ranks: a supervised step with fewer groups than ranks."""
    engine = TrainEngine(replace(THIN, **SFT), rank)
    engine.initialize("127.0.0.1", port)
    batch = right_answers(WHOLE, 0).rows(slice(3 * rank, 3 * rank + 3 if rank < 7 else 24))
    figures = engine.train_batch(batch, 0)
    seen = {"figures": figures, "parameters": parameters(engine), "rows": len(pieces(engine)["head.weight"])}
    engine.close()
    return seen


@pytest.mark.long
def test_eight_pieces_of_thirteen_rows(tmp_path: Path):
    """A tensor with too few rows for all ranks leaves some without a piece, and the step is still the single process's."""
    eight = run_ranks(train_thin, 8, tmp_path)
    engine = TrainEngine(replace(WHOLE, **SFT), 0)
    engine.initialize("", 0)
    figures = engine.train_batch(right_answers(WHOLE, 0), 0)
    assert [rank["rows"] for rank in eight] == [2, 2, 2, 2, 2, 2, 1, 0]
    assert eight[0]["figures"]["loss"] == pytest.approx(figures["loss"], abs=1e-4)
    for name, parameter in parameters(engine).items():
        torch.testing.assert_close(eight[7]["parameters"][name], parameter, atol=2e-4, rtol=1e-3)


def hf_config(folder: str, **more: Any) -> JobConfig:
    return replace(WHOLE, **SFT, model_path=f"{folder}/llama", **more)


def train_hf(rank: int, port: int, folder: str) -> dict[str, Any]:
    """One of two ranks that share a Hugging Face model; the second has nothing to train on."""
    config = hf_config(folder, train_workers=2, shard_size=2)
    engine = TrainEngine(config, rank)
    engine.initialize("127.0.0.1", port)
    rows = slice(0, 24) if rank == 0 else slice(24, 24)
    figures = [engine.train_batch(right_answers(config, step).rows(rows), step) for step in range(2)]
    seen = {"figures": figures, "parameters": parameters(engine), "shard": engine.shard()}
    engine.close()
    return seen


def test_a_hugging_face_model_is_sharded_as_well(tmp_path: Path):
    """The same library model in one process and in two pieces trains alike, also with an empty share; uploads are complete."""
    save_llama(tmp_path / "llama", tied=True)
    config = hf_config(str(tmp_path))
    engine = TrainEngine(config, 0)
    engine.initialize("", 0)
    figures = [engine.train_batch(right_answers(config, step), step) for step in range(2)]
    two = run_ranks(train_hf, 2, tmp_path)
    for rank in two:
        assert [step["loss"] for step in rank["figures"]] == pytest.approx([step["loss"] for step in figures], abs=1e-4)
        for name, parameter in parameters(engine).items():
            torch.testing.assert_close(rank["parameters"][name], parameter, atol=2e-4, rtol=1e-3)
    assert sorted([*two[0]["shard"], *two[1]["shard"]]) == sorted(dict(engine.model.named_parameters()))


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"tensor_parallel_size": 4}, "tensor_parallel_size 4: not built; a model is split over ranks by shard_size alone"),
        ({"pipeline_parallel_size": 2}, "pipeline_parallel_size 2: not built"),
        ({"train_workers": 6, "shard_size": 4}, "shard_size 4 does not divide train_workers 6"),
        ({"shard_size": 0}, "shard_size 0 does not divide"),
        ({"rollout_workers": 0}, "rollout_workers is 0: workload grpo needs at least 1"),
        ({"train_workers": 0}, "train_workers is 0: workload grpo needs at least 1"),
    ],
)
def test_what_is_not_built_is_refused(asked: dict[str, int], sentence: str):
    """Before anything is started, in one sentence."""
    with pytest.raises(ValueError, match=f"^{sentence}"):
        JobConfig(**asked)
