"""Parameter sharding: each replica of the model lies in pieces over `shard_size` ranks (FSDP2 on a replicate x shard mesh).

Imported only by jobs that shard: it brings in a second of torch's own code. Checkpoints hold complete tensors, so one that
was written by any layout is read by any other.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map

from rlhf.model import Policy
from rlhf.replicas import checked


class ShardedReplicas:
    """`world / shard_size` replicas; rank r holds piece `r % shard_size` of replica `r // shard_size`.

    Each rank trains on samples of its own. Every rank must make every call: forward, backward and `whole` are collective.
    """

    def __init__(self, model: Policy, world: int, shard_size: int):
        self._model, self._replicas = model, world // shard_size
        self._device = next(model.parameters()).device
        mesh = init_device_mesh(self._device.type, (self._replicas, shard_size), mesh_dim_names=("replicate", "shard"))
        for module in (*model.layers(), model):
            fully_shard(module, mesh=mesh)
        for module in model.modules():
            if isinstance(module, FSDPModule):  # sums, because shares are uneven; gloo could not average anyway
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(enable=True)

    def zero(self) -> None:
        """Forget the gradients."""
        self._model.zero_grad()

    def sit_out(self) -> None:
        """Take part in a step without a sample of one's own: the others need this rank's piece forwards and backwards."""
        nothing = torch.zeros(1, 1, dtype=torch.int64, device=self._device)
        logits = self._model(nothing, torch.zeros(1, 1, 1, 1, device=self._device))
        (logits.sum() * 0.0).backward()

    def average(self, figures: Tensor, clip: float) -> tuple[float, float, float]:
        """As `Replicas.average`. FSDP has summed the gradients; the squares of the pieces are summed with the figures."""
        pieces = [parameter.grad.to_local() for parameter in self._model.parameters() if isinstance(parameter.grad, DTensor)]
        squares = torch.stack([piece.square().sum() for piece in pieces]).sum()
        sums = torch.cat([figures.to(self._device), squares.reshape(1)])
        dist.all_reduce(sums)
        samples = checked(float(sums[2]))
        norm = (float(sums[3]) / self._replicas) ** 0.5 / samples
        torch._foreach_mul_(pieces, min(1.0, clip / (norm + 1e-6)) / samples)
        return float(sums[0]) / samples, float(sums[1]) / samples, norm

    def whole(self, state: Any) -> Any:
        """A state with its tensors complete, gathered within the replica. Collective."""
        return tree_map(lambda item: item.full_tensor() if isinstance(item, DTensor) else item, state)

    def model_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A complete model state in pieces as this rank holds them. No communication: every rank reads the whole file."""
        return {name: _piece(state[name], own) for name, own in self._model.state_dict().items()}

    def optimizer_state(self, state: dict[str, Any]) -> dict[str, Any]:
        """A complete optimizer state in pieces: what has a parameter's shape lies as the parameter does."""
        parameters = list(self._model.parameters())
        entries = {
            index: {name: _piece(item, parameters[index]) for name, item in entry.items()}
            for index, entry in state["state"].items()
        }
        return {**state, "state": entries}


def _piece(item: Any, like: Tensor | nn.Parameter) -> Any:
    """`item` laid out as `like`, if it has its shape; else as it is (an optimizer's step count)."""
    if not isinstance(like, DTensor) or item.shape != like.shape:
        return item
    return distribute_tensor(item.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
