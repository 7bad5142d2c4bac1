"""One rank of data-parallel training: gradients of its share, averaged over all samples of all ranks, one optimizer step."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._pytree import tree_map

from rlhf import checkpoint as parity_checkpoint
from rlhf.batch import DistributedBatchMemory
from rlhf.config import JobConfig
from rlhf.devices import collective_backend, device_of, half_precision, moved
from rlhf.errors import TrainEngineError
from rlhf.grpo import clipped_objective, group_advantages, k3, per_sample
from rlhf.meeting import find_store, open_store
from rlhf.model import Policy, token_logprobs
from rlhf.policies import build_policy
from rlhf.recover import recover_info, take_up
from rlhf.replicas import Replicas
from rlhf.resilience import checkpoint as atomic_checkpoint

if TYPE_CHECKING:
    from rlhf.sharding import ShardedReplicas


class TrainEngine:
    """The policy under training. `initialize` first; then every rank must make every `train_batch` call, with its own share."""

    def __init__(self, config: JobConfig, rank: int):
        self.config = config
        self.rank = rank
        self.world = config.train_workers
        self.step = -1
        self._before: tuple[int, dict[str, Any]] | None = None
        atomic = config.posture.atomic_checkpoint
        self._save = atomic_checkpoint.save_checkpoint if atomic else parity_checkpoint.save_checkpoint
        self._load = atomic_checkpoint.load_checkpoint if atomic else parity_checkpoint.load_checkpoint

    def initialize(self, master: str, port: int) -> None:
        """Join the other ranks (only if there are any) and make model and optimizer; the same on every rank.

        Raises ValueError for a device or a model that cannot be had here, and what torch.distributed raises when ranks do not
        meet within the collective time-out.
        """
        torch.set_num_threads(1)
        self.device = device_of(self.config, self.rank)
        model = build_policy(self.config).to(self.device)
        if self.world > 1:
            limit_s = self.config.timeout_s("collective")
            dist.init_process_group(
                collective_backend(self.device),
                store=find_store(master, port, limit_s) if self.rank else open_store(master, port, limit_s),
                rank=self.rank,
                world_size=self.world,
                timeout=timedelta(seconds=limit_s),
                device_id=self.device if self.device.type == "cuda" else None,
            )
        self.replicas = _replicas(model, self.config)
        self.model = model
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=self.config.learning_rate, fused=True)

    def shard(self) -> dict[str, Tensor]:
        """Copies of this rank's share of the named parameters: shares are disjoint, together complete, balanced by bytes."""
        sizes = {name: parameter.numel() for name, parameter in self.model.named_parameters()}
        mine = set(_share(sizes, self.world)[self.rank])
        shares: dict[str, Tensor] = {}
        for name, parameter in self.model.named_parameters():
            complete = self.replicas.whole(parameter.detach())  # one at a time: no rank ever holds the whole model for this
            if name in mine:
                shares[name] = complete.clone().cpu()
        return shares

    def train_batch(self, batch: DistributedBatchMemory, step: int) -> dict[str, float]:
        """Train on this rank's share (which may be empty); returns loss, kl (nats), grad_norm and samples.

        `batch` holds whole groups. loss, kl and grad_norm are over all ranks, means over the inner epochs; samples is this
        rank's own number. Raises TrainEngineError when no rank has a sample.
        """
        if self.config.posture.restart and self.world > 1 and self.config.shard_size == 1:
            self._before = self.step, self._state()
        share = moved(batch, self.device)
        if self.config.workload == "grpo":
            share["advantages"] = group_advantages(batch["rewards"], batch["group_id"]).to(self.device)
        epochs = [self._epoch(share) for _ in range(self.config.inner_epochs)]
        self.step = step
        loss, kl, norm = torch.tensor(epochs).mean(dim=0).tolist()
        return {"loss": loss, "kl": kl, "grad_norm": norm, "samples": float(len(batch))}

    def save(self, folder: Path, step: int) -> dict[str, int]:
        """Write the latest checkpoint; returns bytes by file. All replicas hold the same state, so rank 0 alone writes.

        With shards every rank must call: what rank 0 writes is gathered from its replica.
        """
        if self.rank != 0 and self.config.shard_size == 1:
            return {}
        state = self._state()
        if self.rank != 0:
            return {}
        return self._save(folder, {**state, "recover": recover_info(self.config, step)}, step)

    def rescue(self, folder: Path, step: int) -> None:
        """Write the state after `step`, from whatever rank, also when a step after it was begun, or done.

        Raises TrainEngineError (SaveError) when that is not among what this rank remembers: its state before the step that it
        was last asked for, and the one it has if that step is not begun.
        """
        remembered = {self.step: self._state()} if self._before is None or self._before[0] != self.step else {}
        remembered |= dict([self._before] if self._before else [])
        if step not in remembered:
            raise TrainEngineError("SaveError", f"rank {self.rank} has the state after {sorted(remembered)}, not {step}")
        self._save(folder, {**remembered[step], "recover": recover_info(self.config, step)}, step)

    def load(self, *folders: Path) -> int:
        """Take up the latest checkpoint of the first folder that has one, of whatever layout of ranks; returns its step.

        Raises what the loader raises, and TrainEngineError (RecoverError) for a checkpoint of another job.
        """
        state, _ = self._load(*folders)
        self.step = take_up(state["recover"], self.config)
        self.model.load_state_dict(self.replicas.model_state(state["model"]))
        self.optimizer.load_state_dict(self.replicas.optimizer_state(state["optimizer"]))
        return self.step

    def close(self) -> None:
        """Leave the other ranks."""
        if self.world > 1 and dist.is_initialized():
            dist.destroy_process_group()

    def _state(self) -> dict[str, Any]:
        """Model and optimizer, complete, in tensors of their own: a view would be saved with all it is a view of."""
        state = self.replicas.whole({"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()})
        copied: dict[str, Any] = tree_map(lambda item: item.clone() if isinstance(item, Tensor) else item, state)
        return copied

    def _epoch(self, batch: DistributedBatchMemory) -> tuple[float, float, float]:
        """One optimizer step: loss, kl and gradient norm over the whole batch."""
        self.replicas.zero()
        if len(batch):
            figures = self._backward(batch)
        else:
            figures = torch.zeros(3)
            self.replicas.sit_out()
        means = self.replicas.average(figures, self.config.grad_clip)
        self.optimizer.step()
        return means

    def _backward(self, batch: DistributedBatchMemory) -> Tensor:
        """Gradients of the sum of losses; the sums `[loss, kl, samples]`."""
        with half_precision(self.device):
            loss, kl = self._losses(batch)
        loss.sum().backward()  # type: ignore[no-untyped-call]
        return torch.stack([loss.detach().sum(), kl.sum(), loss.new_tensor(float(len(batch)))])

    def _losses(self, batch: DistributedBatchMemory) -> tuple[Tensor, Tensor]:
        """Loss and KL to the reference of each sample, `[m]` each; the KL carries no gradient."""
        config = self.config
        mask = batch["loss_mask"][:, 1:].float()
        logprobs = token_logprobs(self.model, batch["input_ids"], batch["attention_mask"], config.temperature)
        none = torch.zeros(len(batch), device=self.device)
        if config.workload == "sft":
            return per_sample(-logprobs, mask), none
        objective = clipped_objective(logprobs, batch["logprobs"], batch["advantages"], config.clip_ratio)
        if config.kl_coefficient == 0:
            return per_sample(-objective, mask), none
        kl = k3(logprobs, batch["ref_logprobs"])
        return per_sample(config.kl_coefficient * kl - objective, mask), per_sample(kl.detach(), mask)


def _replicas(model: Policy, config: JobConfig) -> Replicas | ShardedReplicas:
    """How the model lies over the ranks; it is changed in place."""
    if config.shard_size == 1:
        return Replicas(model, config.train_workers)
    from rlhf.sharding import ShardedReplicas  # a second of torch's own code, which no other job needs

    return ShardedReplicas(model, config.train_workers, config.shard_size)


def _share(sizes: dict[str, int], parts: int) -> list[list[str]]:
    """Names in `parts` lists of about equal total size: largest first, always to the smallest list."""
    shares: list[list[str]] = [[] for _ in range(parts)]
    totals = [0] * parts
    for name in sorted(sizes, key=lambda key: (-sizes[key], key)):
        lightest = totals.index(min(totals))
        shares[lightest].append(name)
        totals[lightest] += sizes[name]
    return shares
