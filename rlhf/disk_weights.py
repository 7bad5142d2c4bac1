"""How weights travel by way of the file system: shards written for one update, or the latest checkpoint as it lies there."""

from __future__ import annotations

import logging
import math
import pickle
import shutil
from pathlib import Path

import torch
from torch import Tensor

from rlhf import checkpoint as parity_checkpoint
from rlhf.config import JobConfig
from rlhf.errors import InferenceEngineError, TrainEngineError
from rlhf.resilience import checkpoint as atomic_checkpoint

logger = logging.getLogger(__name__)

#: What `torch.load` raises for files that are not there, not whole or not what they should be.
UNREADABLE = (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError)


class DiskWeights:
    """Weights in the job's folder. With `disk_source` "latest" nothing is written: readers take the checkpoint."""

    def __init__(self, job_dir: Path, config: JobConfig):
        self._shards, self._recover = job_dir / "weights", job_dir / "recover"
        self._config = config

    def publish(self, tensors: dict[str, Tensor], rank: int, version: int, _: float = math.inf) -> int:
        """Write a shard; returns bytes. A write has no deadline. Raises TrainEngineError (UploadWeightsError)."""
        if self._config.disk_source == "latest":
            return 0
        path = self._shard(version, rank)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(tensors, path)
        except (OSError, RuntimeError) as error:
            raise TrainEngineError("UploadWeightsError", f"Failed to save weights of version {version}: {error}") from error
        return path.stat().st_size

    def fetch(self, version: int) -> tuple[dict[str, Tensor], int]:
        """Weights and their version; no weights, as long as there is no checkpoint. Raises InferenceEngineError."""
        try:
            if self._config.disk_source == "latest":
                return self._latest()
            paths = [self._shard(version, rank) for rank in range(self._config.train_workers)]
            return {name: tensor for path in paths for name, tensor in _load(path).items()}, version
        except (*UNREADABLE, atomic_checkpoint.DamagedCheckpointError) as error:
            text = f"Failed to update weights from disk: {type(error).__name__}: {error}"
            raise InferenceEngineError("UpdateWeightError", text) from error

    def clear(self, version: int) -> None:
        """Remove what was written for one update."""
        shutil.rmtree(self._shard(version, 0).parent, ignore_errors=True)

    def _latest(self) -> tuple[dict[str, Tensor], int]:
        """The model of the latest checkpoint; a version is the number of the step that begins with it."""
        link = self._recover / parity_checkpoint.LINK
        if not link.is_symlink():
            logger.info("no checkpoint in %s yet: the initial weights stay", self._recover)
            return {}, 0
        if self._config.posture.atomic_checkpoint:
            state, step = atomic_checkpoint.load_checkpoint(self._recover)
            return state["model"], step + 1
        weights = _load(link / "model.pt")
        return weights, int(_load(link / "recover.pt")["step"]) + 1

    def _shard(self, version: int, rank: int) -> Path:
        return self._shards / f"v{version}" / f"shard{rank}.pt"


def _load(path: Path) -> dict[str, Tensor]:
    content: dict[str, Tensor] = torch.load(path, weights_only=True)
    return content
