"""One rank: a replica with a rollout engine of its own, in a group with the others."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any

import ray
import torch
from ray import serve
from ray.serve._private import replica as serve_replica

from rlhf import wire
from rlhf.batch import DistributedBatchMemory
from rlhf.config import JobConfig
from rlhf.engines.rollout import RolloutEngine
from rlhf.errors import InferenceEngineError
from rlhf.serving import group
from rlhf.serving.config import ServingConfig
from rlhf.serving.seats import Berth, Seat, rank_from, seat_taken

_add_port = serve_replica.add_port_to_grpc_server


def keep_home() -> None:
    """Call in each replica's process. Serve has every replica listen on all interfaces for calls that nothing here makes,
    without authentication; it is kept to its own node's address. Ray's version is pinned exactly, and a test looks.
    """
    address = ray.util.get_node_ip_address()
    serve_replica.add_port_to_grpc_server = lambda server, asked: _add_port(server, asked.replace("[::]", address))


class PolicyRank:
    """Its methods are called by the entry alone, one at a time, and those that exchange anything on all ranks at once."""

    def __init__(self, config: JobConfig, serving: ServingConfig):
        keep_home()
        self._config, self._serving = config, serving
        self._engine: RolloutEngine | None = None
        if serving.rank_source == "environment":
            rank_from(os.environ)  # what is missing is said now, not when the first request comes

    def berth(self) -> Berth:
        """Where this replica runs."""
        return Berth(ray.get_runtime_context().get_node_id(), torch.cuda.device_count())

    def form(self, given: Seat, meeting: tuple[str, int], name: str) -> dict[str, Any]:
        """Join the group; weights are then those of whoever has the newest. Returns rank, device, version and pid."""
        tag = serve.get_replica_context().replica_tag
        seat = seat_taken(given, self._serving.rank_source, tag, os.environ)
        own = ray.util.get_node_ip_address()
        group.join(seat, tag, own, meeting, name, self._serving.rendezvous_s, self._serving.collective_s)
        if self._engine is None or self._engine.rank != seat.rank:
            self._engine = RolloutEngine(self._config, seat.rank)
            self._engine.device = torch.device(seat.device)
            self._engine.model.to(self._engine.device)
        return {**asdict(seat), "version": self.spread(None), "pid": os.getpid()}

    def load(self, message: bytes) -> int:
        """Take up the weights of a message with a `version`. Raises InferenceEngineError, changing nothing, if incomplete."""
        meta, tensors = wire.decode(message)
        engine = self._formed()
        engine.load_weights(tensors, int(meta["version"]))
        return engine.version

    def spread(self, source: int | None) -> int:
        """Take part in giving every rank the weights of one; returns their version."""
        engine = self._formed()
        engine.version = group.spread(engine.model, engine.version, source)
        return engine.version

    def generate(self, message: bytes) -> bytes:
        """Samples of this rank's share of the prompts, without rewards; `version` in the answer is of the weights."""
        engine = self._formed()
        group.agree(engine.version)
        meta, prompts = wire.decode(message)
        batch = engine.generate(DistributedBatchMemory(prompts), int(meta["step"]), _unscored, int(meta["stream"]))
        return wire.encode({"version": engine.version}, batch.state())

    def _formed(self) -> RolloutEngine:
        if self._engine is None:
            raise InferenceEngineError("InitializeError", "this replica is in no group yet")
        return self._engine


def _unscored(prompts: list[str], _: list[str]) -> list[float]:
    """Who asked for the samples scores them."""
    return [0.0] * len(prompts)
