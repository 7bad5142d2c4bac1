"""What a worker process runs: its log, its registration, its server. One function for all but controller and scheduler."""

from __future__ import annotations

import logging
import os
import random
import socket
import sys
from pathlib import Path
from typing import Any

import psutil

from rlhf import beats, seam
from rlhf.config import JobConfig, load_config
from rlhf.links import listen, listen_address, name_table, options_of
from rlhf.logs import open_log
from rlhf.plain import arguments_problem
from rlhf.ports import PORT_TAKEN
from rlhf.registry import register
from rlhf.rpc import CALL, CREATE_ENGINE, Reply
from rlhf.rpc_server import BadRequestError, RpcServer
from rlhf.stats import StatsTracker
from rlhf.topology import role_and_rank
from storage.records import Role

logger = logging.getLogger(__name__)

#: What a component without an engine listens for.
PURPOSE_OF = {Role.METASERVER: "weights", Role.REWARD: "reward", Role.SERVING: "generate"}


def main(component: str, job_dir: Path) -> None:
    """Be ``component`` of the job in ``job_dir`` until ended."""
    os.environ["JOB_DIR"] = str(job_dir)
    open_log(component, job_dir / "logs" / f"{component}.log")
    seam.announce_as(component)
    config = load_config(job_dir / "config.json")
    role, rank = role_and_rank(component)
    random.seed(config.seed * 1000 + rank)
    listener = _listen(component, PURPOSE_OF.get(role, "rpc"))
    logger.info("listening on %s:%d, %s", *listener.getsockname(), options_of(listener))
    stats = StatsTracker(job_dir / "stats" / f"{component}.jsonl", component)
    if config.posture.heartbeats:
        beats.start(component, config, stats)
    if role == Role.SERVING:
        from rlhf.serving.component import serve_component

        serve_component(component, config, listener, job_dir)
        return
    register(component)
    if role in (Role.METASERVER, Role.REWARD):
        _serve_store(role, listener)
    else:
        _serve_worker(component, config, listener, stats)


def _listen(component: str, purpose: str) -> socket.socket:
    """The listener; where somebody else listens already, one line and an exit code that says so."""
    try:
        return listen(component, purpose)
    except OSError as error:
        if error.errno != PORT_TAKEN:
            raise
        logger.error("%s", error.strerror)  # noqa: TRY400 - one line, which is passed on
        sys.exit(PORT_TAKEN)


def _serve_store(role: str, listener: socket.socket) -> None:
    from rlhf import metaserver, reward

    app = metaserver.MetaServer().app() if role == "metaserver" else reward.app()
    metaserver.serve_forever(app, listener)


def _serve_worker(component: str, config: JobConfig, listener: socket.socket, stats: StatsTracker) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = interface_of(listen_address(component, "rpc")[0])
    dispatch = Dispatch(component, config, stats)
    RpcServer(listener, config.timeout_s("body_read"), dispatch.serve, lambda: dispatch.initialized).serve_forever()


def interface_of(address: str) -> str:
    """The network interface that carries an address of this host (any 127.x.y.z is the loopback's)."""
    if address.startswith("127."):
        return "lo"
    for name, addresses in psutil.net_if_addrs().items():
        if any(entry.address == address for entry in addresses):
            return name
    raise LookupError(f"no interface of this host has the address {address}")


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
        from rlhf import workers

        workers.reseed(self._config.seed, self._rank)
        self._worker = workers.kind_of(self._role, self._config)(self._component, self._rank, self._config, self._stats)
        logger.info("engine of %s created, bound to %s", self._component, name_table()["bind"][self._component])
        return {}, {}

    def _call(self, meta: dict[str, Any], tensors: dict[str, Any]) -> Reply:
        from rlhf.workers import METHODS

        method, arguments = meta.get("method"), meta.get("arguments", {})
        if method not in METHODS[self._role]:
            raise BadRequestError(f"no method {method!r}; a {self._role} worker has {', '.join(METHODS[self._role])}")
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
