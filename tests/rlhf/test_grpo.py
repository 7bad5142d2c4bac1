"""Advantages and loss."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf.grpo import clipped_objective, group_advantages, k3, per_sample

rewards = st.lists(st.sampled_from([0.0, 0.25, 1 / 3, 0.5, 1.0]), min_size=8, max_size=8)


@given(st.lists(rewards, min_size=1, max_size=5), st.randoms())
def test_advantages_are_centred_and_scaled_inside_each_group_in_any_row_order(groups, random):
    """A group's advantages have mean 0 and deviation 1 (0 where all rewards are equal), wherever its rows stand."""
    flat = torch.tensor([reward for group in groups for reward in group])
    group_id = torch.arange(len(groups)).repeat_interleave(8) * 7
    order = list(range(len(flat)))
    random.shuffle(order)
    got = torch.empty_like(flat)
    got[order] = group_advantages(flat[order], group_id[order])
    for group, advantages in zip(groups, got.reshape(-1, 8), strict=True):
        equal = max(group) == min(group)
        assert abs(float(advantages.mean())) < 1e-3
        assert abs(float(advantages.std(correction=0)) - (0.0 if equal else 1.0)) < 5e-3


def test_no_samples_have_no_advantages():
    """An empty share is no special case."""
    assert group_advantages(torch.zeros(0), torch.zeros(0, dtype=torch.int64)).shape == (0,)


@given(st.lists(st.floats(-8, 0), min_size=2, max_size=2))
def test_k3_is_never_negative_and_0_for_equal_policies(pair):
    """The penalty cannot be gamed below zero."""
    logprobs, reference = torch.tensor(pair, dtype=torch.float64)
    assert float(k3(logprobs, reference)) >= -1e-12  # rounding
    assert float(k3(logprobs, logprobs)) == 0.0


def test_k3_estimates_the_divergence():
    """Its mean under the policy is the exact KL divergence."""
    policy, reference = torch.tensor([0.7, 0.2, 0.1]).log(), torch.tensor([0.3, 0.3, 0.4]).log()
    exact = (policy.exp() * (policy - reference)).sum()
    torch.testing.assert_close((policy.exp() * k3(policy, reference)).sum(), exact)


def test_gains_beyond_the_clip_have_no_gradient_and_losses_keep_theirs():
    """At ratio 1 the gradient is the advantage; past the clip it vanishes only where the step would profit further."""
    old = torch.zeros(4, 1)
    new = torch.tensor([[0.0], [0.5], [0.5], [-0.5]], requires_grad=True)
    advantages = torch.tensor([2.0, 1.0, -1.0, -1.0])
    clipped_objective(new, old, advantages, 0.2).sum().backward()
    expected = torch.tensor([[2.0], [0.0], [-math.exp(0.5)], [0.0]])
    torch.testing.assert_close(new.grad, expected)


def test_a_sample_counts_once_however_long_it_is():
    """The mean is over a row's own tokens, and a row without tokens is 0."""
    values = torch.tensor([[1.0, 2.0, 9.0], [4.0, 9.0, 9.0], [9.0, 9.0, 9.0]])
    mask = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    assert per_sample(values, mask).tolist() == [1.5, 4.0, 0.0]
