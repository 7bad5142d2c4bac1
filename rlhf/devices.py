"""Where the math is done: the CPU in float32, or a CUDA device in bfloat16 by autocast. One switch: `JobConfig.device`."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from rlhf.batch import DistributedBatchMemory
from rlhf.config import JobConfig


def device_of(config: JobConfig, rank: int) -> torch.device:
    """The device of one rank, made the current one of this process; CUDA devices are given out in turn.

    Raises ValueError when there is none to give.
    """
    if config.device == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError(f"device {config.device!r} is asked for, but torch {torch.__version__} finds no CUDA device here")
    device = torch.device("cuda", rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def collective_backend(device: torch.device) -> str:
    """Which torch.distributed backend moves tensors between devices of this kind."""
    return "nccl" if device.type == "cuda" else "gloo"


def half_precision(device: torch.device) -> AbstractContextManager[object]:
    """Matrix products in bfloat16 on CUDA; on the CPU nothing changes. Parameters and optimizer stay float32 on both."""
    return torch.autocast("cuda", dtype=torch.bfloat16) if device.type == "cuda" else nullcontext()


def moved(batch: DistributedBatchMemory, device: torch.device | str) -> DistributedBatchMemory:
    """The batch with its tensors on a device; those that are there already are not copied."""
    return DistributedBatchMemory({key: batch[key].to(device) for key in batch})
