"""One rank of data-parallel training: gradients of its share, averaged over all samples of all ranks, one optimizer step."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from rlhf import checkpoint as parity_checkpoint
from rlhf.batch import DistributedBatchMemory
from rlhf.config import JobConfig
from rlhf.errors import TrainEngineError
from rlhf.grpo import clipped_objective, group_advantages, k3, per_sample
from rlhf.model import build_model, token_logprobs
from rlhf.resilience import checkpoint as atomic_checkpoint


class TrainEngine:
    """The policy under training. `initialize` first; then every rank must make every `train_batch` call, with its own share."""

    def __init__(self, config: JobConfig, rank: int):
        self.config = config
        self.rank = rank
        self.world = config.train_workers
        self.step = 0
        atomic = config.posture.atomic_checkpoint
        self._save = atomic_checkpoint.save_checkpoint if atomic else parity_checkpoint.save_checkpoint
        self._load = atomic_checkpoint.load_checkpoint if atomic else parity_checkpoint.load_checkpoint

    def initialize(self, master: str, port: int) -> None:
        """Join the other ranks (only if there are any) and make model and optimizer; the same on every rank.

        Raises what torch.distributed raises when the ranks do not meet within the collective time-out.
        """
        torch.set_num_threads(1)
        if self.world > 1:
            dist.init_process_group(
                "gloo",
                init_method=f"tcp://{master}:{port}",
                rank=self.rank,
                world_size=self.world,
                timeout=timedelta(seconds=self.config.timeout_s("collective")),
            )
        self.model = build_model(self.config)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=self.config.learning_rate, fused=True)
        self._sums = _flat_gradients(self.model)

    def shard(self) -> dict[str, Tensor]:
        """Copies of this rank's share of the named parameters: shares are disjoint, together complete, balanced by bytes."""
        sizes = {name: parameter.numel() for name, parameter in self.model.named_parameters()}
        mine = _share(sizes, self.world)[self.rank]
        named = dict(self.model.named_parameters())
        return {name: named[name].detach().clone() for name in mine}

    def train_batch(self, batch: DistributedBatchMemory, step: int) -> dict[str, float]:
        """Train on this rank's share (which may be empty); returns loss, kl (nats), grad_norm and samples.

        `batch` holds whole groups. loss, kl and grad_norm are over all ranks, means over the inner epochs; samples is this
        rank's own number. Raises TrainEngineError when no rank has a sample.
        """
        advantages = group_advantages(batch["rewards"], batch["group_id"])
        epochs = [self._epoch(batch, advantages) for _ in range(self.config.inner_epochs)]
        self.step = step
        loss, kl, norm = torch.tensor(epochs).mean(dim=0).tolist()
        return {"loss": loss, "kl": kl, "grad_norm": norm, "samples": float(len(batch))}

    def save(self, folder: Path, step: int) -> dict[str, int]:
        """Write the latest checkpoint; returns bytes by file. All ranks hold the same state, so rank 0 alone writes."""
        if self.rank != 0:
            return {}
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        return self._save(folder, state, step)

    def load(self, folder: Path) -> int:
        """Take up the latest checkpoint; returns its step."""
        state, self.step = self._load(folder)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        return self.step

    def close(self) -> None:
        """Leave the other ranks."""
        if self.world > 1 and dist.is_initialized():
            dist.destroy_process_group()

    def _epoch(self, batch: DistributedBatchMemory, advantages: Tensor) -> tuple[float, float, float]:
        """One optimizer step: loss, kl and gradient norm over the whole batch."""
        self._sums.zero_()
        if len(batch):
            loss, kl = self._losses(batch, advantages)
            loss.sum().backward()  # type: ignore[no-untyped-call]
            self._sums[-3:] = torch.stack([loss.detach().sum(), kl.detach().sum(), torch.tensor(float(len(batch)))])
        # Sums and the number of samples travel together: dividing afterwards weights every sample of every rank equally,
        # however uneven the shares.
        if self.world > 1:
            dist.all_reduce(self._sums)
        samples = float(self._sums[-1])
        if samples == 0:
            raise TrainEngineError("TrainBatchError", "no rank has a sample to train on")
        self._sums /= samples
        gradient = self._sums[:-3]
        norm = float(gradient.norm())
        gradient *= min(1.0, self.config.grad_clip / (norm + 1e-6))
        self.optimizer.step()
        return float(self._sums[-3]), float(self._sums[-2]), norm

    def _losses(self, batch: DistributedBatchMemory, advantages: Tensor) -> tuple[Tensor, Tensor]:
        """GRPO loss and KL of each sample, `[m]` each."""
        config = self.config
        mask = batch["loss_mask"][:, 1:].float()
        logprobs = token_logprobs(self.model, batch["input_ids"], batch["attention_mask"], config.temperature)
        objective = clipped_objective(logprobs, batch["logprobs"], advantages, config.clip_ratio)
        if config.kl_coefficient == 0:
            return per_sample(-objective, mask), torch.zeros(len(batch))
        kl = k3(logprobs, batch["ref_logprobs"])
        return per_sample(config.kl_coefficient * kl - objective, mask), per_sample(kl.detach(), mask)


def _flat_gradients(model: torch.nn.Module) -> Tensor:
    """One buffer of which every gradient is a view, with three more places (loss, kl, samples): one all-reduce moves all."""
    buffer = torch.zeros(sum(parameter.numel() for parameter in model.parameters()) + 3)
    start = 0
    for parameter in model.parameters():
        parameter.grad = buffer[start : start + parameter.numel()].view_as(parameter)
        start += parameter.numel()
    return buffer


def _share(sizes: dict[str, int], parts: int) -> list[list[str]]:
    """Names in `parts` lists of about equal total size: largest first, always to the smallest list."""
    shares: list[list[str]] = [[] for _ in range(parts)]
    totals = [0] * parts
    for name in sorted(sizes, key=lambda key: (-sizes[key], key)):
        lightest = totals.index(min(totals))
        shares[lightest].append(name)
        totals[lightest] += sizes[name]
    return shares
