"""All workers of one role, called at once: one connection and one thread each."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from rlhf.config import JobConfig
from rlhf.errors import EngineError
from rlhf.resilience.deadline import LearnedDeadline
from rlhf.resilience.readiness import READY_KEY
from rlhf.rpc import OfflineError, Reply, RpcClient, RpcError
from rlhf.stats import StatsTracker
from rlhf.topology import ranked
from storage.records import Role

if TYPE_CHECKING:
    from rlhf.membership import Membership  # it listens, by a library that only a job with heartbeats needs

logger = logging.getLogger(__name__)

#: What becomes of a call whose worker is offline.
Offline = Literal["raise", "skip", "move"]

#: No learned deadline is shorter, seconds: a busy machine makes a short call many times as long, and that is no failure.
LEARNED_FLOOR_S = 5.0


class WorkerGroup:
    """The workers of ``role``, by rank; their failures become ``error``s, with a sub-error."""

    def __init__(self, role: Role, config: JobConfig, stats: StatsTracker, error: type[EngineError], events: bool = True):
        self.config = config
        self.members: Membership | None = None
        self._role, self._error = role, error
        self.names = ranked(config, role)
        self._calls = [RpcClient(name, config, stats) for name in self.names]
        self._events = [RpcClient(name, config, stats, "event") for name in self.names] if events else []
        self._learned: dict[str, LearnedDeadline] = {}
        self._left: set[str] = set()
        self._pool = ThreadPoolExecutor(max_workers=len(self.names), thread_name_prefix=str(role))

    def create_engines(self, ranks: Sequence[int] | None = None) -> None:
        """Have every engine, or those of some ranks, made in its process."""
        asked = range(len(self.names)) if ranks is None else ranks
        wait_all([self._pool.submit(self._guard, "InitializeError", self._calls[rank].create_engine) for rank in asked])

    def initialize(self, ranks: Sequence[int] | None = None, **arguments: Any) -> None:
        """Make every engine, or those of some ranks, ready; train ranks meet here."""
        wait_all(self.call("initialize", "InitializeError", self.config.timeout_s("init"), ranks=ranks, **arguments))

    def ranks_of(self, components: Collection[str]) -> list[int]:
        """Ranks of those of `components` that are of this group."""
        return [rank for rank, name in enumerate(self.names) if name in components]

    def hang_up(self, ranks: Sequence[int]) -> None:
        """Close connections to processes that are no more; the next call makes new ones."""
        for client in (clients[rank] for clients in (self._calls, self._events) if clients for rank in ranks):
            client.close()

    def heed(self, members: Membership) -> None:
        """From now on call nobody who is offline, and wait no longer for one that goes offline."""
        self.members = members
        for client in (*self._calls, *self._events):
            client.absence = partial(members.absence, self._awaited(client.component))
            client.unreachable = partial(members.mark_offline, client.component)
        members.when_lost(self._give_up)

    def leave(self, component: str) -> bool:
        """Start one that is offline no more: skip it, until it is heard again. False where that is not for this group to do.

        Somebody must be left who is not skipped; and who is called but not known to be offline would fail every call.
        """
        others = set(self.names) - self._left - {component}
        if component not in self.names or not others or self.members is None or not self.members.absence([component]):
            return False
        self._left.add(component)
        logger.warning("%s is not restarted any more and is skipped until it is heard", component)
        return True

    @property
    def restarts_all(self) -> bool:
        """Whether whoever is lost is started again, nobody having been left for lost."""
        return self.config.posture.restart and not self._left

    def _restarts(self, rank: int) -> bool:
        return self.config.posture.restart and self.names[rank] not in self._left

    def online(self) -> list[int]:
        """Ranks of those that can be called; those that cannot but are started again are among them."""
        return [rank for rank in range(len(self.names)) if self._restarts(rank) or not self._calls[rank].absence()]

    def call(
        self,
        method: str,
        sub_error: str,
        timeout_s: float,
        shares: Sequence[dict[str, Tensor]] = (),
        ranks: Sequence[int] | None = None,
        offline: Offline = "raise",
        grace_s: float = 0.0,
        **arguments: Any,
    ) -> list[Future[Reply]]:
        """Begin a call of every worker, or of those of ``ranks``, each with its own share of tensors; futures in their order.

        A worker that is or goes offline: "raise" its error; "skip" it, its reply is empty; "move" its share to another. Of one
        that is started again when it is lost it is always the first, and nothing waits for it to come back by itself.
        With ``grace_s`` the worker keeps its own time, and is waited for so much longer: its verdict comes first. It knows how
        long it has from its configuration; where that is learned, it is told (`within_s`).
        """
        self.wait_for_enough()
        called = range(len(self.names)) if ranks is None else ranks
        given = list(shares) or [{} for _ in called]
        limit_s = self._limit_s(method, timeout_s)
        if grace_s and self.config.posture.stage_deadline:
            arguments["within_s"] = limit_s
        move = partial(self._call_or_move, called)
        how: dict[Offline, Callable[..., Reply]] = {"raise": self._timed_call, "skip": self._call_or_skip, "move": move}
        begin = {rank: how["raise" if self._restarts(rank) else offline] for rank in called}
        return [
            self._pool.submit(begin[rank], rank, sub_error, method, limit_s + grace_s, tensors, arguments)
            for rank, tensors in zip(called, given, strict=True)
        ]

    def _timed_call(
        self,
        rank: int,
        sub_error: str,
        method: str,
        limit_s: float,
        tensors: dict[str, Tensor],
        arguments: dict[str, Any],
    ) -> Reply:
        """A call whose duration, if it goes well, is learned from."""
        start = time.monotonic()
        reply: Reply = self._guard(sub_error, self._calls[rank].call, method, limit_s, tensors, **arguments)
        self._learned_of(method).observe(time.monotonic() - start)
        return reply

    def _call_or_skip(self, *call: Any) -> Reply:
        """A call of one that may stay away: its reply is empty then."""
        try:
            return self._timed_call(*call)
        except EngineError as error:
            if is_offline(error):
                return {}, {}
            raise

    def _call_or_move(self, ranks: Sequence[int], rank: int, *call: Any) -> Reply:
        """A call that any of ``ranks`` can answer: if its worker goes offline, one that is online is asked."""
        for _ in range(2 * len(ranks)):
            try:
                return self._timed_call(rank, *call)
            except EngineError as error:
                if not is_offline(error):
                    raise
                self.wait_for_enough()
                others = [other for other in self.online() if other in ranks]
                if not others:
                    raise
                lost, rank = rank, rank if rank in others else others[rank % len(others)]
                logger.info("the share of %s goes to %s", self.names[lost], self.names[rank])
        return self._timed_call(rank, *call)

    def wait_for_enough(self) -> None:
        """Begin nothing while too few are online, unless the lost are started again. Raises FrameworkError at a bound."""
        if self.members is not None and not self.restarts_all:
            self.members.wait_for_enough()

    def _awaited(self, component: str) -> list[str]:
        """Whose absence ends a call of a worker: its own; of a train rank everybody's, since ranks wait for one another."""
        return self.names if self._role is Role.TRAIN else [component]

    def _give_up(self, lost: str) -> None:
        for client in (*self._calls, *self._events):
            if lost in self._awaited(client.component):
                client.cut()

    def _limit_s(self, method: str, timeout_s: float) -> float:
        if not self.config.posture.stage_deadline:
            return timeout_s
        return self._learned_of(method).limit_s(timeout_s, LEARNED_FLOOR_S)

    def _learned_of(self, method: str) -> LearnedDeadline:
        """What is known of a method; every worker's first call of it is a cold one."""
        return self._learned.setdefault(method, LearnedDeadline(warm_up=len(self.names)))

    def ask_first(self, method: str, sub_error: str, timeout_s: float) -> dict[str, Any]:
        """The figures of the first worker alone."""
        reply: Reply = self._guard(sub_error, self._calls[0].call, method, timeout_s)
        return reply[0]

    def notify(self, event: str, global_step: int, ranks: Sequence[int] | None = None) -> bool:
        """Tell all who are online of an event; whether all have heard. A failure is a warning or raised, by posture."""
        asked = self.online() if ranks is None else ranks
        notify = [self._events[rank].notify for rank in asked]
        futures = [self._pool.submit(self._guard, "NotifyEventError", tell, event, global_step) for tell in notify]
        heard = True
        for rank, future in zip(asked, futures, strict=True):
            try:
                future.result()
            except EngineError as error:
                if is_offline(error) and not self._restarts(rank):
                    continue
                if self.config.posture.on_notify_failure == "raise":
                    raise
                logger.warning("notify_%s_event failed: %s", event, error)
                heard = False
        return heard

    def silent(self) -> list[str]:
        """Names of those that do not answer now: /health, which the busy do not either, or the status, which they do."""
        alive = (lambda client: bool(client.status())) if self.config.posture.readiness else RpcClient.healthy
        return [client.component for client in self._calls if not alive(client)]

    def lost(self) -> list[str]:
        """Names of those that do not say what they are doing, which the busy do. They are asked all at once."""
        states = self._pool.map(RpcClient.status, self._calls)
        return [name for name, state in zip(self.names, states, strict=True) if not state]

    def unready(self) -> list[str]:
        """Names of those whose engine does not say that it is initialized."""
        return [client.component for client in self._calls if client.status().get(READY_KEY) is not True]

    def _guard(self, sub_error: str, function: Any, *arguments: Any, **named: Any) -> Any:
        try:
            return function(*arguments, **named)
        except RpcError as error:
            raise self._error(sub_error, error.summary) from error


def is_offline(error: BaseException) -> bool:
    """Whether a call failed because its callee is offline, which has been said."""
    return isinstance(error.__cause__, OfflineError)


def wait_future_ordered(futures: Sequence[Future[Any]]) -> list[Any]:
    """Results in order; a failure makes the process send itself SIGTERM, and is not raised.

    A process that outlives its own SIGTERM goes on: the place of what failed holds None.
    """
    results: list[Any] = [None] * len(futures)
    for number, future in enumerate(futures):
        try:
            results[number] = future.result()
        except EngineError as error:
            logger.error("Exception caught when waiting for future: %s", error)  # noqa: TRY400 - one line, as the trainer has it
            os.kill(os.getpid(), signal.SIGTERM)
    return results


def wait_causes(causes: Sequence[Future[Any]], consequences: Sequence[Future[Any]]) -> None:
    """Wait for all. Where both fail the first of `causes` is raised: who waits for another has failed for want of it."""
    try:
        wait_all([*causes, *consequences])
    except EngineError as error:
        first = next(filter(None, (future.exception() for future in causes)), error)
        raise first from first.__cause__


def wait_all(futures: Sequence[Future[Any]]) -> list[Any]:
    """Results in order, after all have ended. Every exception is logged; the one that came first is raised.

    That somebody is offline has been said already.
    """
    first: BaseException | None = None
    for future in as_completed(futures):
        error = future.exception()
        if error is not None:
            level = logging.INFO if is_offline(error) else logging.ERROR
            logger.log(level, "Exception caught when waiting for future: %s", error)
            first = first or error
    if first is not None:
        raise first
    return [future.result() for future in futures]
