"""What each kind of worker does when called: engine, link and stats put together. Method names are those of the calls."""

from __future__ import annotations

import logging
import math
import socket
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rlhf import checkpoint as parity_checkpoint
from rlhf.arena import ArenaOutOfMemoryError
from rlhf.batch import DistributedBatchMemory
from rlhf.colocation import RolloutDevice, TrainDevice
from rlhf.config import JobConfig
from rlhf.disk_weights import UNREADABLE, DiskWeights
from rlhf.engines.reference import ReferenceEngine
from rlhf.engines.rollout import RolloutEngine
from rlhf.engines.train import TrainEngine
from rlhf.errors import InferenceEngineError, TrainEngineError
from rlhf.links import job_dir, name_table, open_session
from rlhf.recover import KINDS, RESCUE, folders_of, periodic_name
from rlhf.resilience.checkpoint import DamagedCheckpointError
from rlhf.reward import RewardClient
from rlhf.rpc import Reply
from rlhf.serving.client import ServedRolloutEngine
from rlhf.stats import StatsTracker
from rlhf.weights import WeightStore

logger = logging.getLogger(__name__)

Tensors = dict[str, Tensor]
Method = Callable[..., Reply]


class TrainWorker:
    """A rank of data-parallel training."""

    events = ("train_start", "train_end")

    def __init__(self, component: str, rank: int, config: JobConfig, stats: StatsTracker):
        self._rank, self._config, self._stats = rank, config, stats
        self._address = name_table()["bind"][component]
        self._engine = TrainEngine(config, rank)
        self._device = TrainDevice(component, config, stats, self._state)
        self._store = WeightStore(component, config) if config.weight_sync == "metaserver" else DiskWeights(job_dir(), config)

    def rendezvous(self, _: Tensors) -> Reply:
        """An address and a port that is free here now, for the ranks to meet at."""
        with socket.socket() as probe:
            probe.bind((self._address, 0))
            return {"master": self._address, "port": probe.getsockname()[1]}, {}

    def initialize(self, _: Tensors, master: str, port: int) -> Reply:
        self._engine.initialize(master, port)
        self._device.begin()
        return {}, {}

    def hear(self, event: str) -> None:
        """An event of the controller."""
        self._device.hear(event)

    def upload_weights(self, _: Tensors, version: int, within_s: float = 0.0) -> Reply:
        with self._device.still():
            shard = self._engine.shard()
        size = self._store.publish(shard, self._rank, version, within_s or math.inf)
        self._stats.scalar("weights_update", self._stats.step, weights_version=version, upload_bytes=size)
        return {"bytes": size}, {}

    def train_batch(self, tensors: Tensors, step: int) -> Reply:
        try:
            with self._device.resident():
                figures = self._engine.train_batch(DistributedBatchMemory(tensors), step)
        except ArenaOutOfMemoryError as error:
            raise TrainEngineError("TrainBatchError", str(error)) from error
        self._stats.scalar("train", step, **figures)
        return dict(figures), {}

    def save(self, _: Tensors, step: int, epoch: int = -1) -> Reply:
        """Write the latest checkpoint or, given an epoch, one that is kept."""
        folder = job_dir() / "recover"
        if epoch >= 0:
            folder /= periodic_name(epoch, step)
        start, size = time.monotonic(), 0
        try:
            with self._device.still():
                size = sum(self._engine.save(folder, step).values())
        except (OSError, RuntimeError) as error:
            size = parity_checkpoint.size_of(folder, step)
            raise TrainEngineError("SaveError", f"Failed to save checkpoint of step {step}: {error}") from error
        finally:
            if self._rank == 0:  # who writes
                self._stats.scalar("checkpoint", step, checkpoint_bytes=size, checkpoint_s=time.monotonic() - start)
        return {"bytes": size}, {}

    def rescue(self, _: Tensors, step: int) -> Reply:
        """Put down the state after `step` for workers that are to be started again."""
        with self._device.still():
            self._engine.rescue(job_dir() / RESCUE, step)
        return {}, {}

    def recover(self, _: Tensors, source: str) -> Reply:
        """Take up a checkpoint; its step, or -1 when there is none. Another job's is refused.

        One that does not load is a warning and as good as none, in the legacy way; with atomic checkpoints the next older one
        is taken, and it is an error when none is whole.
        """
        atomic, folders = self._config.posture.atomic_checkpoint, folders_of(job_dir(), source)
        try:
            with self._device.still():
                return {"step": self._engine.load(*(folders if atomic else folders[:1]))}, {}
        except FileNotFoundError as error:
            if source not in KINDS:
                raise TrainEngineError("RecoverError", f"there is no checkpoint {source}") from error
            return {"step": -1}, {}
        except (*UNREADABLE, DamagedCheckpointError) as error:
            text = f"the {source} checkpoint does not load: {type(error).__name__}: {error}"
            if atomic:
                raise TrainEngineError("RecoverError", text) from error
            logger.warning("%s", text)
            return {"step": -1}, {}

    def _state(self) -> list[Tensor]:
        """What training needs on its device: parameters and the optimizer's moments (there are none before the first step)."""
        moments = [tensor for state in self._engine.optimizer.state.values() for tensor in state.values() if tensor.ndim]
        return [*self._engine.model.parameters(), *moments]


class RolloutWorker:
    """Samples completions and has them scored."""

    events = ("rollout_start", "rollout_end")

    def __init__(self, component: str, rank: int, config: JobConfig, stats: StatsTracker):
        self._config, self._stats = config, stats
        self._engine = self._open_engine(component, rank)
        self._device = RolloutDevice(component, config, stats)
        self._store = WeightStore(component, config)
        self._disk = DiskWeights(job_dir(), config)
        self._reward = RewardClient(component, config, stats)

    def _open_engine(self, _: str, rank: int) -> RolloutEngine | ServedRolloutEngine:
        return RolloutEngine(self._config, rank)

    def initialize(self, _: Tensors) -> Reply:
        return {}, {}

    def update_weights(self, _: Tensors, version: int, within_s: float = 0.0) -> Reply:
        self._engine.load_weights(self._store.fetch(version, self._config.train_workers, within_s), version)
        self._stats.scalar("weights_update", self._stats.step, weights_version=version)
        return {"version": version}, {}

    def update_weights_from_disk(self, _: Tensors, version: int, within_s: float = 0.0) -> Reply:  # noqa: ARG002
        """What there is may be older than what was asked for; its own version is told. A read has no deadline."""
        tensors, version = self._disk.fetch(version)
        if tensors:
            self._engine.load_weights(tensors, version)
        self._stats.scalar("weights_update", self._stats.step, weights_version=version)
        return {"version": version}, {}

    def hear(self, event: str) -> None:
        """An event of the controller."""
        self._device.hear(event)

    def generate(self, tensors: Tensors, step: int) -> Reply:
        start, self._reward.step = time.monotonic(), step
        batch = self._sample(DistributedBatchMemory(tensors), step)
        self._tell(batch, step, time.monotonic() - start)
        return {}, batch.state()

    def _tell(self, batch: DistributedBatchMemory, step: int, seconds: float) -> None:
        """What was sampled, how fast, and by which weights; the initial ones are those of version 0."""
        version = self._engine.version
        means = {name: float(batch[key].float().mean()) for name, key in (("reward", "rewards"), ("seqlen", "seqlen"))}
        sizes = {"batch_samples": len(batch), "sample_s": seconds / max(len(batch), 1)}
        self._stats.scalar("rollout", step, **sizes, **means)
        self._stats.scalar("rollout", step, weights_version=version, staleness_count=step - max(version, 0))

    def _sample(self, prompts: DistributedBatchMemory, step: int) -> DistributedBatchMemory:
        assert isinstance(self._engine, RolloutEngine)
        try:
            with self._device.cache_memory() as self._engine.model.cache_memory:
                return self._engine.generate(prompts, step, self._reward.score)
        except ArenaOutOfMemoryError as error:
            raise InferenceEngineError("RolloutError", str(error)) from error


class ServedRolloutWorker(RolloutWorker):
    """Has the policy's service sample in its place: takes the weights there, sees that they are those that answer, scores."""

    def _open_engine(self, component: str, rank: int) -> ServedRolloutEngine:
        self._rank = rank
        return ServedRolloutEngine(self._config, "http://serving", open_session(component, "serving", "generate"))

    def initialize(self, _: Tensors) -> Reply:
        """The service answers, and its ranks have met."""
        assert isinstance(self._engine, ServedRolloutEngine)
        return {"ranks": len(self._engine.members(self._config.timeout_s("init")))}, {}

    def _sample(self, prompts: DistributedBatchMemory, step: int) -> DistributedBatchMemory:
        loaded = self._engine.version
        batch = self._engine.generate(prompts, step, self._reward.score, stream=self._rank)
        if self._engine.version != loaded:
            answered, self._engine.version = self._engine.version, loaded
            raise InferenceEngineError("RolloutError", f"served by weights of version {answered}, not {loaded}")
        return batch


class ReferenceWorker:
    """Log-probabilities under the frozen policy."""

    events: tuple[str, ...] = ()

    def __init__(self, _: str, rank: int, config: JobConfig, stats: StatsTracker):
        self._stats = stats
        self._engine = ReferenceEngine(config, rank)

    def initialize(self, _: Tensors) -> Reply:
        return {}, {}

    def compute_logprobs(self, tensors: Tensors, step: int) -> Reply:
        logprobs = self._engine.compute_logprobs(DistributedBatchMemory(tensors))
        self._stats.scalar("reference", step, batch_samples=len(logprobs))
        return {}, {"ref_logprobs": logprobs}


WORKERS: dict[str, Any] = {"train": TrainWorker, "rollout": RolloutWorker, "reference": ReferenceWorker}
METHODS: dict[str, tuple[str, ...]] = {
    "train": ("rendezvous", "initialize", "upload_weights", "train_batch", "save", "rescue", "recover"),
    "rollout": ("initialize", "update_weights", "update_weights_from_disk", "generate"),
    "reference": ("initialize", "compute_logprobs"),
}


def kind_of(role: str, config: JobConfig) -> Any:
    """The class of a role's workers in this job."""
    return ServedRolloutWorker if role == "rollout" and config.rollout_engine == "served" else WORKERS[role]


def reseed(seed: int, rank: int) -> None:
    """A forked process has its parent's random state; give it one of its own."""
    torch.manual_seed(seed * 1000 + rank)
