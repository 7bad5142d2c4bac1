"""The memory of a CUDA device that two workers share by turns: the device itself, under the same lease as the arena of a CPU.

What a worker does not need in the other's turn it gives back to the device, not to the allocator of its own process.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from rlhf.arena import DeviceArena
from rlhf.stats import StatsTracker


class CardAllocation:
    """Bytes of the device, until `free` (or the end of a `with`). Raises torch.OutOfMemoryError."""

    def __init__(self, size: int, device: torch.device):
        self._bytes = torch.empty(size, dtype=torch.uint8, device=device)

    def region(self) -> Tensor:
        """All of it, `[n]` of uint8."""
        return self._bytes

    def free(self) -> None:
        """Give the bytes back to the device, whoever still has a view of them."""
        self._bytes.untyped_storage().resize_(0)
        torch.cuda.empty_cache()

    def __enter__(self) -> CardAllocation:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.free()


class CardArena(DeviceArena):
    """One worker's view of a device. Lease and request are files at ``path``, as an arena's are; there is no other file."""

    def __init__(self, path: Path, device: torch.device, owner: str, stats: StatsTracker):
        self._device = device
        super().__init__(path, torch.cuda.mem_get_info(device)[1], owner, stats)

    def used_bytes(self) -> int:
        """What anybody has of the device, whether by turns or not."""
        free, total = torch.cuda.mem_get_info(self._device)
        return total - free

    def _open(self) -> None:
        """The memory is there already."""

    def _shut(self) -> None:
        """And stays."""

    def _place(self, size: int) -> CardAllocation | None:
        try:
            return CardAllocation(size, self._device)
        except torch.OutOfMemoryError:
            return None
