"""The policy network."""

import torch

from rlhf.config import JobConfig
from rlhf.model import attention_bias, build_model, token_logprobs
from rlhf.prompts import sample_prompts

CONFIG = JobConfig(seed=5)


def prompts() -> tuple[torch.Tensor, torch.Tensor]:
    batch = sample_prompts(CONFIG, 0)
    return batch["prompt_ids"], batch["prompt_mask"]


def test_the_same_seed_builds_the_same_model_and_leaves_the_global_generator_alone():
    """Replicas start equal without talking to each other; nobody else's random numbers change."""
    torch.manual_seed(1)
    first = build_model(CONFIG).state_dict()
    drawn = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(1))
    assert all(torch.equal(first[name], tensor) for name, tensor in build_model(CONFIG).state_dict().items())
    other = build_model(JobConfig(seed=6)).state_dict()
    assert not torch.equal(first["blocks.0.qkv.weight"], other["blocks.0.qkv.weight"])


def test_the_configured_parameter_size_is_the_models():
    """`JobConfig.parameter_bytes`, by which rates are chosen, agrees with the built model, whatever its shape."""
    for config in (CONFIG, JobConfig(model_dim=32, model_heads=2, model_layers=3)):
        assert sum(p.numel() * p.element_size() for p in build_model(config).parameters()) == config.parameter_bytes
    assert CONFIG.parameter_bytes == 4 * 103_808


def test_what_stands_in_the_padding_changes_nothing():
    """Other tokens under a zero of the mask leave the logits of real slots as they are."""
    ids, mask = prompts()
    model = build_model(CONFIG)
    strange = torch.where(mask.bool(), ids, (ids + 1) % 13)
    bias = attention_bias(mask)
    real = mask.bool()
    assert not torch.equal(strange, ids)
    torch.testing.assert_close(model(strange, bias)[real], model(ids, bias)[real])
    assert bool(torch.isfinite(model(ids, bias)).all())


def test_later_tokens_do_not_change_earlier_predictions():
    """The model is causal."""
    ids, mask = prompts()
    model = build_model(CONFIG)
    changed = ids.clone()
    changed[:, -1] = 3
    bias = attention_bias(mask)
    before, after = model(ids, bias), model(changed, bias)
    torch.testing.assert_close(before[:, :-1], after[:, :-1])
    assert not torch.allclose(before[:, -1], after[:, -1])


def test_token_logprobs_are_of_the_tokens_that_follow():
    """Each figure is the log-softmax of the slot before, at that token."""
    ids, mask = prompts()
    model = build_model(CONFIG)
    expected = torch.log_softmax(model(ids, attention_bias(mask)) / 0.7, dim=-1)
    got = token_logprobs(model, ids, mask, 0.7)
    assert got.shape == (ids.shape[0], ids.shape[1] - 1)
    torch.testing.assert_close(got[3, -1], expected[3, -2, ids[3, -1]])
