"""The device switch. No test here needs a CUDA device: what such a device alone can show is listed in docs/fidelity.md."""

from __future__ import annotations

import warnings

import pytest
import torch

from rlhf.config import JobConfig
from rlhf.devices import collective_backend, device_of, half_precision, moved
from rlhf.engines.reference import ReferenceEngine
from rlhf.engines.rollout import RolloutEngine
from rlhf.engines.train import TrainEngine
from rlhf.generate import generate
from rlhf.grpo import group_advantages
from rlhf.model import token_logprobs
from rlhf.policies import build_policy
from rlhf.prompts import sample_prompts
from rlhf.task import score

CPU = JobConfig(seed=3, train_workers=1, prompts_per_step=4, samples_per_prompt=3)
CUDA = JobConfig(device="cuda")
#: A device on which nothing is computed, but on which a tensor left behind on the CPU is an error.
ELSEWHERE = torch.device("meta")


def batch():
    samples = RolloutEngine(CPU, 0).generate(sample_prompts(CPU, 0), 0, score)
    samples["ref_logprobs"] = ReferenceEngine(CPU, 0).compute_logprobs(samples)
    samples["advantages"] = group_advantages(samples["rewards"], samples["group_id"])
    return samples


@pytest.mark.parametrize("make", [RolloutEngine, ReferenceEngine, lambda *known: TrainEngine(*known).initialize("", 0)])
def test_cuda_without_a_device_is_refused_in_one_sentence(make, monkeypatch: pytest.MonkeyPatch):
    """Every engine says that there is no CUDA device, before it builds anything."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"^device 'cuda' is asked for, but torch \S+ finds no CUDA device here$"):
        make(JobConfig(device="cuda", train_workers=1), 0)


def test_an_unknown_device_is_refused_before_anything_starts():
    """The configuration itself says which devices there are."""
    with pytest.raises(ValueError, match=r"^device is 'tpu'; allowed: cpu, cuda$"):
        JobConfig(device="tpu")


def test_cuda_devices_are_given_out_in_turn(monkeypatch: pytest.MonkeyPatch):
    """Rank r gets device r modulo their number and makes it its current one: no ordinal is ever out of range."""
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    assert [device_of(CUDA, rank).index for rank in range(6)] == [0, 1, 2, 3, 0, 1]
    assert [device.index for device in current] == [0, 1, 2, 3, 0, 1]
    assert device_of(CPU, 5) == torch.device("cpu")


def test_half_precision_and_collectives_follow_the_device():
    """bfloat16 and NCCL on CUDA, float32 and gloo on the CPU."""
    assert [collective_backend(torch.device(kind)) for kind in ("cpu", "cuda")] == ["gloo", "nccl"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns where there is no CUDA; what was chosen is told all the same
        assert half_precision(torch.device("cuda")).fast_dtype is torch.bfloat16
    with half_precision(torch.device("cpu")):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is torch.float32


def test_the_forward_pass_stays_on_the_models_device():
    """Masks, cache, noise and samples are made where the model is."""
    model, prompts = build_policy(CPU).to(ELSEWHERE), moved(sample_prompts(CPU, 0), ELSEWHERE)
    done = generate(model, prompts["prompt_ids"], prompts["prompt_mask"], 7, 1.0, torch.Generator(), 1 << 20)
    assert {tensor.device for tensor in done} == {ELSEWHERE}
    assert token_logprobs(model, prompts["prompt_ids"], prompts["prompt_mask"], 1.0).device == ELSEWHERE


@pytest.mark.parametrize("workload", ["grpo", "sft"])
def test_the_backward_pass_stays_on_the_models_device(workload: str):
    """Losses, gradients and the figures that travel with them are made where the model is."""
    none = {"rollout_workers": 0, "reference_workers": 0} if workload == "sft" else {}
    engine = TrainEngine(JobConfig(train_workers=1, workload=workload, **none), 0)
    engine.device, engine.model = ELSEWHERE, build_policy(CPU).to(ELSEWHERE)
    figures = engine._backward(moved(batch(), ELSEWHERE))
    assert figures.device == ELSEWHERE and figures.shape == (3,)
    assert {parameter.grad.device for parameter in engine.model.parameters()} == {ELSEWHERE}
