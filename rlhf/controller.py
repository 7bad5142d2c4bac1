"""The training loop of the single controller: one step reads like the list it is."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from rlhf import seam
from rlhf.batch import DistributedBatchMemory
from rlhf.config import JobConfig
from rlhf.disk_weights import DiskWeights
from rlhf.errors import EngineError
from rlhf.links import job_dir
from rlhf.prompts import sample_prompts
from rlhf.reference_controller import ReferenceController
from rlhf.revival import Revival
from rlhf.rollout_controller import RolloutController
from rlhf.stats import StatsTracker
from rlhf.train_controller import TrainController
from rlhf.worker_group import WorkerGroup, wait_all, wait_causes

if TYPE_CHECKING:
    from rlhf.membership import Membership

logger = logging.getLogger(__name__)

EPOCH = 0  # prompts are drawn anew for each step, so the whole run is one epoch

T = TypeVar("T")
Hand = TrainController | RolloutController | ReferenceController


class SetBackError(Exception):
    """Train workers came back in the state of an earlier step, from which the loop has to go on."""


class Controller:
    """Owns the loop; everything else is asked of workers."""

    def __init__(self, config: JobConfig, stats: StatsTracker):
        self._config = config
        self._stats = stats
        #: Set where lost processes are to be started again.
        self.revival: Revival | None = None
        self.train = TrainController(config, stats)
        self.rollout = RolloutController(config, stats)
        self.reference = ReferenceController(config, stats)
        self.hands: tuple[Hand, ...] = (self.train, self.rollout, self.reference)

    def heed(self, members: Membership) -> None:
        """From now on skip workers that are offline, and pause when there are too few."""
        for hand in self.hands:
            hand.group.heed(members)

    def start(self) -> None:
        """Create and initialize all engines, all roles at once, in the state from which to go on."""
        with ThreadPoolExecutor(max_workers=len(self.hands)) as pool:
            wait_all([pool.submit(hand.start) for hand in self.hands])
        if self._config.recover_mode == "auto":
            logger.info("recover: begin at step: %d, epoch: %d", self.train.trained + 1, EPOCH)

    def run(self) -> None:
        """Every step of the job that is left. Where the train state was set back, its later steps are done once more."""
        while (step := self.train.trained + 1) < self._config.steps:
            self._stats.step = step
            try:
                self._step(step)
            except SetBackError as error:
                logger.warning("%s", error)

    def _step(self, step: int) -> None:
        start = time.monotonic()
        with self._timed("e2e"):
            with self._timed("weights_update_step"), seam.stage("weights_update", step):
                self._survive(lambda: self._update_weights(step))
            with self._timed("rollout_step"), seam.stage("rollout", step):
                batch = self._survive(lambda: self._rollout(step))
            with self._timed("post_data_process"):
                self._survive(lambda: self._notify(self.rollout.group, "rollout_end", step))
            if self._config.kl_coefficient > 0:
                with self._timed("reference_step"), seam.stage("reference", step):
                    self._survive(lambda: self._compute_reference(batch, step))
            with self._timed("train_step"):
                with seam.stage("train", step):
                    figures = self._survive(lambda: self._train(batch, step))
                self._save_if_due(step)
                self._survive(lambda: self._notify(self.train.group, "train_end", step))
        self._record(batch, figures, step, time.monotonic() - start)

    def _survive(self, act: Callable[[], T]) -> T:
        """Do a part of a step; once more, if need be, after lost processes were started again.

        Raises SetBackError when that left the train workers in another state than `act` begins with.
        """
        if self.revival is None:
            return act()
        since = self.train.trained

        def again() -> T:
            if self.train.trained != since:
                raise SetBackError(f"train state is set back from step {since} to step {self.train.trained}")
            return act()

        return self.revival.survive(again)

    def _update_weights(self, step: int) -> None:
        """Through the store uploads and updates at once, through the disk one after the other.

        Raises the first failure or, where the first cause is told, that of an upload before that of who waited for it.
        """
        logger.info("start to update weight, step: %d, epoch: %d", step, EPOCH)
        if self._config.weight_sync == "metaserver":
            uploads, updates = self.train.upload_weights(step), self.rollout.update_weights(step)
            if self._config.posture.first_cause:
                wait_causes(uploads, updates)
            else:
                wait_all([*uploads, *updates])
            logger.info("meta_server update weight succeeded (parallel), step: %d, epoch: %d", step, EPOCH)
        else:
            wait_all(self.train.upload_weights(step))
            wait_all(self.rollout.update_weights(step))
            DiskWeights(job_dir(), self._config).clear(step)
            logger.info("disk update weight succeeded, step: %d, epoch: %d", step, EPOCH)
        self.rollout.unfed = False

    def _rollout(self, step: int) -> DistributedBatchMemory:
        if self.rollout.unfed:
            self._update_weights(step)
        self._notify(self.rollout.group, "rollout_start", step)
        logger.info("start to rollout, step: %d, epoch: %d", step, EPOCH)
        start = time.monotonic()
        with self._timed("rollout_main"):
            batch = self.rollout.rollout(sample_prompts(self._config, step), step)
        sizes = {"rollout_samples": len(batch), "samples_per_s": len(batch) / (time.monotonic() - start)}
        self._stats.scalar("rollout", step, **means_of(batch), **sizes)
        logger.info("rollout succeeded, step: %d, epoch: %d", step, EPOCH)
        return batch

    def _compute_reference(self, batch: DistributedBatchMemory, step: int) -> None:
        logger.info("start to compute_logprobs_with_distributed, step: %d, epoch: %d", step, EPOCH)
        batch["ref_logprobs"] = self.reference.compute_logprobs(batch, step)
        logger.info("compute ref logprobs succeeded, step: %d, epoch: %d", step, EPOCH)

    def _train(self, batch: DistributedBatchMemory, step: int) -> dict[str, float]:
        self._notify(self.train.group, "train_start", step)
        logger.info("start to train, step: %d, epoch: %d", step, EPOCH)
        start = time.monotonic()
        with self._timed("train_distributed_batch"):
            figures = self.train.train_distributed_batch(batch, step)
        self._stats.scalar("train", step, samples_per_s=len(batch) / (time.monotonic() - start))
        logger.info("train succeeded, step: %d, epoch: %d", step, EPOCH)
        return figures

    def _save_if_due(self, step: int) -> None:
        """The latest checkpoint, then one that is kept, each when its interval says so."""
        config = self._config
        if config.latest_save_interval and step % config.latest_save_interval == 0:
            self._save("latest", "latest_checkpoint recover info", step)
        if config.periodic_save_interval and step % config.periodic_save_interval == 0:
            self._save("periodic", "periodic checkpoint", step, epoch=EPOCH)

    def _save(self, which: str, what: str, step: int, **kept: int) -> None:
        """Have a checkpoint written. A failure is a warning or is raised, as the posture says."""
        position = f"epoch:{EPOCH}, epoch_step: {step}, global_step:{step}"
        logger.info("[Trainer] start save %s, %s", what, position)
        with self._timed(f"{which}_recover_save"), seam.stage("checkpoint", step):
            try:
                self._survive(lambda: self.train.save(step, **kept))
            except EngineError as error:
                if self._config.posture.on_save_failure == "raise":
                    raise
                logger.warning("[Trainer] save of %s_checkpoint failed: %s", which, error)
            else:
                logger.info("[Trainer] checkpoint recover save success, %s", position)

    def _notify(self, group: WorkerGroup, event: str, step: int) -> None:
        name = f"notify_{event}_event"
        logger.info("start to %s, step: %d, epoch: %d", name, step, EPOCH)
        with self._timed(name):
            heard = group.notify(event, step)
        if heard:
            logger.info("%s succeeded, step: %d, epoch: %d", name, step, EPOCH)

    def _record(self, batch: DistributedBatchMemory, figures: dict[str, float], step: int, seconds: float) -> None:
        """A step that was done, to its end."""
        self._stats.scalar("train", step, **figures)
        self._stats.scalar("rollout", step, batch_samples=len(batch))
        self._stats.scalar("", step, samples_per_s=len(batch) / seconds)
        told = ", ".join(f"{name}: {value:.4f}" for name, value in {**means_of(batch), **figures}.items())
        logger.info("step: %d, epoch: %d, %s", step, EPOCH, told)

    @contextmanager
    def _timed(self, key: str) -> Iterator[None]:
        """Record the seconds of a part of the step under its stage."""
        with self._stats.record_timing(key, STAGE_OF.get(key, "")):
            yield


MEANS = {"reward": "rewards", "exact": "exact", "seqlen": "seqlen"}
STAGE_OF = {
    "weights_update_step": "weights_update",
    "rollout_step": "rollout",
    "notify_rollout_start_event": "rollout",
    "rollout_main": "rollout",
    "reference_step": "reference",
    "train_step": "train",
    "notify_train_start_event": "train",
    "train_distributed_batch": "train",
    "latest_recover_save": "checkpoint",
    "periodic_recover_save": "checkpoint",
}


def means_of(batch: DistributedBatchMemory) -> dict[str, float]:
    """Means over the samples of those figures that a batch has."""
    return {name: float(batch[key].float().mean()) for name, key in MEANS.items() if key in batch}
