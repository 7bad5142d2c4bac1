"""From a request to the method of the worker that this process is."""

from __future__ import annotations

import logging
import math
import time
from typing import Any

from rlhf import workers
from rlhf.config import JobConfig
from rlhf.links import name_table
from rlhf.plain import arguments_problem
from rlhf.rpc import CALL, CREATE_ENGINE, Reply
from rlhf.rpc_server import BadRequestError
from rlhf.stats import StatsTracker
from rlhf.topology import role_and_rank

logger = logging.getLogger(__name__)


class Dispatch:
    """From a request to the worker's method."""

    def __init__(self, component: str, config: JobConfig, stats: StatsTracker):
        self._component, self._config, self._stats = component, config, stats
        self._role, self._rank = role_and_rank(component)
        self._worker: Any = None
        self._newest = 0
        self.initialized = False

    def serve(self, path: str, meta: dict[str, Any], tensors: dict[str, Any]) -> Reply:
        """One request. Raises BadRequestError for one that makes no sense, else what the engine raises."""
        if path == CREATE_ENGINE:
            return self._create_engine()
        if self._worker is None:
            raise BadRequestError("no engine: create_engine comes first")
        return self._call(meta, tensors) if path == CALL else self._event(meta)

    def _create_engine(self) -> Reply:
        workers.reseed(self._config.seed, self._rank)
        self._worker = workers.kind_of(self._role, self._config)(self._component, self._rank, self._config, self._stats)
        logger.info("engine of %s created, bound to %s", self._component, name_table()["bind"][self._component])
        return {}, {}

    def _call(self, meta: dict[str, Any], tensors: dict[str, Any]) -> Reply:
        method, arguments = meta.get("method"), meta.get("arguments", {})
        if method not in workers.METHODS[self._role]:
            raise BadRequestError(f"no method {method!r}; a {self._role} worker has {', '.join(workers.METHODS[self._role])}")
        if not isinstance(arguments, dict):
            raise BadRequestError(f"arguments of {method} are not an object")
        if problem := arguments_problem(getattr(self._worker, method), arguments):
            raise BadRequestError(f"{method}: {problem}")
        step = arguments.get("step", arguments.get("version"))
        self._stats.step = step if isinstance(step, int) else -1
        reply: Reply = getattr(self._worker, method)(tensors, **arguments)
        self.initialized |= method == "initialize"
        logger.info("%s success, %s", method, {key: arguments[key] for key in ("step", "version") if key in arguments})
        return reply

    def _event(self, meta: dict[str, Any]) -> Reply:
        event, step = meta.get("event"), meta.get("global_step")
        if event not in self._worker.events or not isinstance(step, int):
            raise BadRequestError(
                f"a {self._role} worker takes {' and '.join(self._worker.events) or 'no event'}, not {event!r}"
            )
        logger.info("event %s, global_step: %d", event, step)
        sent_s = meta.get("sent_wall_s")
        if isinstance(sent_s, float) and math.isfinite(sent_s):
            self._stats.scalar("", step, **{f"event/{event}/delay_s": time.time() - sent_s})
        if self._overtaken(meta.get("number", self._newest)):
            logger.warning("event %s of step %d comes after a later one and is not obeyed", event, step)
        else:
            self._stats.step = step
            self._worker.hear(event)
        return {"acknowledged": {"event": event, "global_step": step}}, {}

    def _overtaken(self, number: int) -> bool:
        """Whether a later event has been heard: to obey an older one would take the device back, or give it up, out of turn."""
        overtaken = self._config.posture.acked_events and number < self._newest
        self._newest = max(self._newest, number)
        return overtaken
