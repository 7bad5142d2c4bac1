"""The loop of the supervised control workload: the train workers of GRPO and their checkpoints, nothing before and beside."""

from __future__ import annotations

import time

from rlhf import seam
from rlhf.config import JobConfig
from rlhf.controller import Controller, means_of
from rlhf.sft import right_answers
from rlhf.stats import StatsTracker
from rlhf.train_controller import TrainController


class SftController(Controller):
    """No rollout, no reference, no weights to hand on: a step is `train` and, when it is due, `checkpoint`."""

    def __init__(self, config: JobConfig, stats: StatsTracker):
        self._config = config
        self._stats = stats
        self.revival = None
        self.train = TrainController(config, stats)
        self.hands = (self.train,)

    def _step(self, step: int) -> None:
        start = time.monotonic()
        batch = right_answers(self._config, step)
        self._stats.scalar("train", step, **means_of(batch))
        with self._timed("e2e"), self._timed("train_step"):
            with seam.stage("train", step):
                figures = self._survive(lambda: self._train(batch, step))
            self._save_if_due(step)
            self._survive(lambda: self._notify(self.train.group, "train_end", step))
        self._record(batch, figures, step, time.monotonic() - start)
