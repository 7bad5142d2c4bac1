"""The controller's hand on the rollout workers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import Future

from torch import Tensor

from rlhf.batch import DistributedBatchMemory
from rlhf.config import JobConfig
from rlhf.errors import EngineError, InferenceEngineError
from rlhf.rpc import Reply
from rlhf.stats import StatsTracker
from rlhf.worker_group import WorkerGroup, wait_all, wait_future_ordered
from storage.records import Role

logger = logging.getLogger(__name__)

UPDATES = {"metaserver": "update_weights", "disk": "update_weights_from_disk"}
Shares = Sequence[dict[str, Tensor]]


class RolloutController:
    """Updates weights and samples on all workers."""

    def __init__(self, config: JobConfig, stats: StatsTracker):
        self._config = config
        self.group = WorkerGroup(Role.ROLLOUT, config, stats, InferenceEngineError)
        self._updates: dict[int, Future[Reply]] = {}
        #: A worker was started again and has not had weights since.
        self.unfed = False
        #: Of the last step that was sampled: whose the shares were at first, and the replies by share.
        self._sampled: tuple[int, list[int], dict[int, Reply]] = (-1, [], {})

    def start(self) -> None:
        """Create the engines."""
        self.group.create_engines()
        self.group.initialize()

    def lost(self) -> list[str]:
        """Names of workers that answer nobody."""
        return self.group.lost()

    def retire(self, _: Sequence[str]) -> list[str]:
        """Nobody has to be started again with one of these."""
        return []

    def leave(self, component: str) -> bool:
        """The others can take the share of one that is left for lost."""
        return self.group.leave(component)

    def renew(self, restarted: set[str]) -> None:
        """Make the engines of workers that were started again. They have no weights but the initial ones.

        Nor has a service that samples in their place.
        """
        self.unfed |= Role.SERVING in restarted
        if ranks := self.group.ranks_of(restarted):
            self.unfed = True
            self.group.hang_up(ranks)
            self.group.create_engines(ranks)
            self.group.initialize(ranks)

    def update_weights(self, version: int) -> list[Future[Reply]]:
        """Begin the wait for the weights of all who are to sample; their own deadline is shorter than this call's."""
        ranks = self.group.online()
        futures = self._begin_update(ranks, version)
        self._updates = dict(zip(ranks, futures, strict=True))
        return futures

    def _begin_update(self, ranks: Sequence[int], version: int) -> list[Future[Reply]]:
        timeout_s, grace_s = self._config.timeout_s("update_weights"), self._config.timeout_s("rpc_grace")
        call = (
            "update_weights" if self._config.weight_sync == "metaserver" else "update_weights_from_disk",
            "UpdateWeightError",
        )
        return self.group.call(*call, timeout_s, ranks=ranks, offline="skip", grace_s=grace_s, version=version)

    def rollout(self, prompts: DistributedBatchMemory, step: int) -> DistributedBatchMemory:
        """Samples of all prompts. A worker that fails costs its share, or the step, as the posture says."""
        ranks = self._samplers(step)
        if self._config.posture.restart:
            return self._joined(self._sample_missing(prompts, step, ranks), step)
        shares = [share.state() for share in prompts.split(len(ranks))]
        if self._config.posture.partial_rollout == "abort":
            replies = wait_all(self._generate(shares, step, ranks))
        elif self._config.posture.partial_rollout == "exit":
            replies = [reply for reply in wait_future_ordered(self._generate(shares, step, ranks)) if reply is not None]
        else:
            replies = [reply for reply in map(self._reply_or_none, self._generate(shares, step, ranks)) if reply is not None]
        return self._joined(replies, step)

    @staticmethod
    def _joined(replies: Sequence[Reply], step: int) -> DistributedBatchMemory:
        if not replies:
            raise InferenceEngineError("RolloutError", f"no worker returned a sample in step {step}")
        return DistributedBatchMemory.concat([DistributedBatchMemory(tensors) for _, tensors in replies])

    def _samplers(self, step: int) -> list[int]:
        """Ranks that are asked: who is online, with the weights of this step; all, where whoever is lost is started again."""
        everyone = [*range(self._config.rollout_workers)]
        if self.group.members is None or self.group.restarts_all:
            return everyone
        self.group.wait_for_enough()
        for rank in self.group.online():
            if not self._has_weights(rank):
                self._catch_up(rank, step)
        return [rank for rank in self.group.online() if self._has_weights(rank)] or everyone

    def _has_weights(self, rank: int) -> bool:
        """Whether a worker took part in this step's update to its end."""
        update = self._updates.get(rank)
        return update is not None and update.exception() is None and bool(update.result()[0])

    def _catch_up(self, rank: int, step: int) -> None:
        """Have a worker that was away take the weights, and the event, that it missed."""
        self.group.notify("rollout_start", step, [rank])
        [update] = self._begin_update([rank], step)
        if error := update.exception():
            logger.warning("%s cannot take the weights of step %d and does not sample: %s", self.group.names[rank], step, error)
        self._updates[rank] = update

    def _generate(self, shares: Shares, step: int, ranks: Sequence[int]) -> list[Future[Reply]]:
        timeout_s = self._config.timeout_s("rollout")
        return self.group.call("generate", "RolloutError", timeout_s, shares, ranks, offline="move", step=step)

    def _sample_missing(self, prompts: DistributedBatchMemory, step: int, ranks: Sequence[int]) -> list[Reply]:
        """Replies by share. When some fail the others' are kept, and whoever asks for the same step again gets them.

        A share that is sampled anew is what it would have been: it depends on seed, rank, step and weights alone. The shares
        stay what they were at the first try; that of a worker which has been left for lost since goes to another.
        """
        if self._sampled[0] != step:
            self._sampled = (step, [*ranks], {})
        _, first, replies = self._sampled
        shares = [share.state() for share in prompts.split(len(first))]
        missing = [place for place in range(len(first)) if place not in replies]
        asked = [first[place] if first[place] in ranks else ranks[place % len(ranks)] for place in missing]
        futures = self._generate([shares[place] for place in missing], step, asked)
        try:
            wait_all(futures)
        finally:
            done = {place: future.result() for place, future in zip(missing, futures, strict=True) if not future.exception()}
            replies.update(done)
        return [replies[place] for place in range(len(first))]

    @staticmethod
    def _reply_or_none(future: Future[Reply]) -> Reply | None:
        try:
            return future.result()
        except EngineError as error:
            logger.warning("rollout result of a worker is dropped: %s", error)
            return None
