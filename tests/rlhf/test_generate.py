"""Sampling with the cache."""

import pytest
import torch

from rlhf.config import JobConfig
from rlhf.generate import generate
from rlhf.model import build_model, token_logprobs
from rlhf.prompts import sample_prompts
from rlhf.task import EOS

CONFIG = JobConfig(seed=5)


def sampled(seed: int, temperature: float = 1.0, tokens: int = 7):
    batch = sample_prompts(CONFIG, 0)
    prompts = batch["prompt_ids"], batch["prompt_mask"]
    generator = torch.Generator().manual_seed(seed)
    return prompts, generate(build_model(CONFIG), *prompts, tokens, temperature, generator, 4 << 20)


def test_logprobs_from_the_cache_are_those_of_one_full_pass():
    """Decoding token by token and reading the finished text give the same log-probabilities."""
    (ids, mask), done = sampled(1, temperature=0.8)
    whole = torch.cat([ids, done.ids], dim=1)
    seen = torch.cat([mask, done.mask], dim=1)
    full = token_logprobs(build_model(CONFIG), whole, seen, 0.8)[:, ids.shape[1] - 1 :]
    torch.testing.assert_close(full * done.mask, done.logprobs, atol=2e-5, rtol=1e-4)


def test_the_same_generator_state_gives_the_same_samples_and_another_gives_others():
    """Sampling is a function of weights, prompts and seed."""
    assert torch.equal(sampled(1)[1].ids, sampled(1)[1].ids)
    assert not torch.equal(sampled(1)[1].ids, sampled(2)[1].ids)


def test_a_row_ends_with_its_first_eos():
    """The mask covers tokens up to and with the first EOS; all that follows is EOS, masked, with log-probability 0."""
    _, done = sampled(3)
    assert bool((done.ids == EOS).any()) and bool((done.mask.sum(dim=1) == 7).any())
    for ids, mask, logprobs in zip(*done, strict=True):
        length = int(mask.sum())
        assert mask.tolist() == [1] * length + [0] * (7 - length)
        assert (ids[: length - 1] != EOS).all() and (ids[length:] == EOS).all()
        assert length == 7 or ids[length - 1] == EOS
        assert (logprobs[:length] < 0).all() and (logprobs[length:] == 0).all()


def test_samples_follow_the_models_distribution():
    """First tokens of many samples of one prompt are as frequent as the model says (chi-square, 12 degrees of freedom)."""
    batch = sample_prompts(CONFIG, 0).rows(torch.zeros(6000, dtype=torch.int64))
    model = build_model(CONFIG)
    done = generate(model, batch["prompt_ids"], batch["prompt_mask"], 1, 1.0, torch.Generator().manual_seed(0), 96 << 20)
    ids = torch.cat([batch["prompt_ids"][:13], torch.arange(13)[:, None]], dim=1)
    mask = torch.cat([batch["prompt_mask"][:13], torch.ones(13, 1, dtype=torch.int64)], dim=1)
    expected = 6000 * token_logprobs(model, ids, mask, 1.0)[:, -1].detach().exp()
    counts = torch.bincount(done.ids[:, 0], minlength=13)
    assert float(expected.sum()) == pytest.approx(6000, rel=1e-4)
    assert float(((counts - expected).square() / expected).sum()) < 32.9  # p = 0.001


def test_the_cache_lies_in_one_reserved_allocation_of_the_size_asked_for():
    """The reserve is allocated whole, the cache is its front, and one that is too small is refused."""
    model = build_model(CONFIG)
    cache = model.reserve_cache(32, 15, 8 << 20)
    assert cache.shape == (2, 2, 32, 4, 16, 16) and cache.is_contiguous()
    assert cache.untyped_storage().nbytes() == 8 << 20
    with pytest.raises(ValueError, match="need a cache of 524288 bytes, reserved are 65536"):
        model.reserve_cache(32, 15, 65536)
