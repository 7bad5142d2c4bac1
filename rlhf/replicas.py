"""How model and gradients lie over the ranks of a job: here every rank has the whole model (plain data parallel)."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from rlhf.errors import TrainEngineError
from rlhf.model import Policy

#: Places behind the gradients for what travels with them: loss, kl, samples.
FIGURES = 3


class Replicas:
    """Whole copies. One buffer of which every gradient is a view, and the figures behind it: one all-reduce moves all."""

    def __init__(self, model: Policy, world: int):
        self._world = world
        parameters = list(model.parameters())
        self._sums = torch.zeros(sum(parameter.numel() for parameter in parameters) + FIGURES, device=parameters[0].device)
        start = 0
        for parameter in parameters:
            parameter.grad = self._sums[start : start + parameter.numel()].view_as(parameter)
            start += parameter.numel()

    def zero(self) -> None:
        """Forget the gradients."""
        self._sums.zero_()

    def sit_out(self) -> None:
        """Take part in a step without a sample of one's own: zeros are what there is to add."""

    def average(self, figures: Tensor, clip: float) -> tuple[float, float, float]:
        """From this rank's sums `[loss, kl, samples]` to mean loss and kl over all samples of all ranks, and the gradient norm.

        Gradients become those of the mean loss, clipped to norm `clip`. Sums and the number of samples travel together:
        dividing afterwards weights every sample of every rank equally, however uneven the shares. Raises TrainEngineError
        when there is no sample at all.
        """
        self._sums[-FIGURES:] = figures
        if self._world > 1:
            dist.all_reduce(self._sums)
        samples = checked(float(self._sums[-1]))
        self._sums /= samples
        gradient = self._sums[:-FIGURES]
        norm = float(gradient.norm())
        gradient *= min(1.0, clip / (norm + 1e-6))
        return float(self._sums[-3]), float(self._sums[-2]), norm

    def whole(self, state: Any) -> Any:
        """A state with its tensors complete: they are."""
        return state

    def model_state(self, state: Any) -> Any:
        """A complete model state as `load_state_dict` of this layout takes it."""
        return state

    def optimizer_state(self, state: Any) -> Any:
        """A complete optimizer state as `load_state_dict` of this layout takes it."""
        return state


def checked(samples: float) -> float:
    """The number of samples of all ranks. Raises TrainEngineError when it is none: every rank sees the same number."""
    if samples == 0:
        raise TrainEngineError("TrainBatchError", "no rank has a sample to train on")
    return samples
