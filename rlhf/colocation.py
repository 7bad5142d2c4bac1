"""Two workers of a node on one device, by turns: train has it until rollout is told to start, rollout until told to end.

Nobody acknowledges anything: an event makes a worker ask for the lease, or give it up, and that is all. A worker whose event
never came does not get the device, and finds out when it allocates.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from rlhf.arena import MIB, DeviceArena, Region
from rlhf.card import CardArena
from rlhf.config import JobConfig
from rlhf.devices import device_of
from rlhf.links import job_dir
from rlhf.stats import StatsTracker
from rlhf.topology import role_and_rank

logger = logging.getLogger(__name__)

#: How often the holder looks whether somebody else wants the device.
YIELD_POLL_S = 0.02
#: Tensors begin at multiples of this many bytes.
ALIGNMENT = 64


def open_arena(component: str, config: JobConfig, stats: StatsTracker) -> DeviceArena:
    """The device that ``component`` shares with its partner, the worker of the other role with the same rank."""
    rank = role_and_rank(component)[1]
    path = job_dir() / (config.arena_path or "arena") / f"node{rank}"
    if config.device == "cuda":
        return CardArena(path, device_of(config, rank), component, stats)
    return DeviceArena(path, config.arena_mib * MIB, component, stats)


class TrainDevice:
    """The device as a train worker has it. ``tensors`` names the state that lies there during training.

    The state is on the device from `resident` on, until another asks for the lease and no step is under way; then it moves to
    memory of the worker's own. Without colocation everything stays where it is.
    """

    def __init__(self, component: str, config: JobConfig, stats: StatsTracker, tensors: Callable[[], Sequence[Tensor]]):
        self._component, self._config, self._tensors = component, config, tensors
        self._arena = open_arena(component, config, stats) if config.colocated else None
        self._allocation: Region | None = None
        self._still = threading.RLock()

    def begin(self) -> None:
        """Take the device before anyone else wants it, and begin to yield when asked."""
        if self._arena is not None:
            self._arena.request()
            with self.resident():
                threading.Thread(target=self._yield_when_wanted, args=(self._arena,), name="lease", daemon=True).start()

    def hear(self, event: str) -> None:
        """An event of this worker."""
        if self._arena is not None and event == "train_start":
            self._arena.request()

    def still(self) -> threading.RLock:
        """Hold this while reading the state: nothing moves meanwhile."""
        return self._still

    @contextmanager
    def resident(self) -> Iterator[None]:
        """The state is on the device. Raises ArenaOutOfMemoryError when that cannot be had within the arena's time-out."""
        with self._still:
            if self._arena is not None and self._allocation is None:
                allocation = self._arena.allocate(self._config.train_memory_mib * MIB, self._config.timeout_s("arena"))
                try:
                    move_into(self._tensors(), allocation)
                except BaseException:
                    allocation.free()
                    raise
                self._allocation = allocation
            yield

    def _yield_when_wanted(self, arena: DeviceArena) -> None:
        """For ever: when another has asked for the lease, move out and give it up."""
        pause = threading.Event()
        while not pause.wait(YIELD_POLL_S):
            if arena.wanted_by() in ("", self._component):
                continue
            with self._still:
                if self._allocation is not None:
                    move_out(self._tensors())
                    self._allocation.free()
                    self._allocation = None
                    arena.release()


class RolloutDevice:
    """The device as a rollout worker has it: a region for key/value caches, while it generates."""

    def __init__(self, component: str, config: JobConfig, stats: StatsTracker):
        self._config = config
        self._arena = open_arena(component, config, stats) if config.colocated else None

    def hear(self, event: str) -> None:
        """An event of this worker."""
        if self._arena is not None and event == "rollout_start":
            self._arena.request()
        elif self._arena is not None:
            self._arena.release()

    @contextmanager
    def cache_memory(self) -> Iterator[Tensor | None]:
        """A region `[n]` of float32 for caches; None without colocation. Raises ArenaOutOfMemoryError."""
        if self._arena is None:
            yield None
            return
        with self._arena.allocate(self._config.kv_cache_mib * MIB, self._config.timeout_s("arena")) as allocation:
            yield allocation.region().view(torch.float32)


def move_into(tensors: Sequence[Tensor], allocation: Region) -> None:
    """Let tensors lie in an allocation, with the values they have. Raises ValueError when it is too small."""
    region, start = allocation.region(), 0
    for tensor in tensors:
        size = tensor.numel() * tensor.element_size()
        if start + size > region.numel():
            raise ValueError(f"train_memory_mib: {region.numel() // MIB} MiB do not hold the worker's state")
        place = region[start : start + size].view(tensor.dtype).view(tensor.shape)
        place.copy_(tensor.data)
        tensor.data = place
        start = -(-(start + size) // ALIGNMENT) * ALIGNMENT


def move_out(tensors: Sequence[Tensor]) -> None:
    """Let tensors lie in main memory, in memory of this process's own, with the values they have."""
    for tensor in tensors:
        tensor.data = torch.empty_like(tensor.data, device="cpu").copy_(tensor.data)
