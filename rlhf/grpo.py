"""Group-relative policy optimisation: advantages inside a prompt's group, clipped objective, k3 penalty to the reference."""

from __future__ import annotations

import torch
from torch import Tensor

#: Keeps a group whose rewards are all equal at advantage 0 instead of 0/0.
EPSILON = 1e-4


def group_advantages(rewards: Tensor, group_id: Tensor) -> Tensor:
    """Rewards `[m]` less their group's mean, over its standard deviation. A group is the rows of equal `group_id [m]`."""
    groups, inverse = torch.unique(group_id, return_inverse=True)
    size = torch.zeros(len(groups)).index_add_(0, inverse, torch.ones_like(rewards))
    mean = torch.zeros(len(groups)).index_add_(0, inverse, rewards) / size
    centred = rewards - mean[inverse]
    variance = torch.zeros(len(groups)).index_add_(0, inverse, centred.square()) / size
    return centred / (variance.sqrt() + EPSILON)[inverse]


def k3(logprobs: Tensor, reference: Tensor) -> Tensor:
    """Per-token estimate of the KL divergence to the reference, in nats: never negative, unbiased (Schulman's k3)."""
    ratio = reference - logprobs
    return ratio.exp() - ratio - 1.0


def clipped_objective(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """Per-token surrogate `[m, t]` to be maximised: gains beyond a ratio of 1 +- clip count for nothing."""
    ratio = (logprobs - old_logprobs).exp()
    gain = advantages[:, None]
    return torch.minimum(ratio * gain, ratio.clamp(1.0 - clip, 1.0 + clip) * gain)


def per_sample(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `values [m, t]` over each row's masked tokens; 0 for a row without any."""
    return (values * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
