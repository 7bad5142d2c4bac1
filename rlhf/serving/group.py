"""The torch.distributed group of the replicas: a bounded rendezvous that says who is missing, and what travels in it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import PrefixStore, Store
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from rlhf.errors import InferenceEngineError
from rlhf.meeting import find_store
from rlhf.serve_engine import interface_of
from rlhf.serving.seats import Seat

#: All that a store keeps of one rendezvous is a few names; its own calls are quick or the store is gone.
STORE_CALL_S = 30.0


def join(seat: Seat, who: str, own: str, meeting: tuple[str, int], name: str, rendezvous_s: float, collective_s: float) -> None:
    """Be `seat.rank` of the group `name`, leaving any earlier group. `own` is this node's address, over which ranks exchange.

    Raises InferenceEngineError (InitializeError) at once when the rank is taken, and after `rendezvous_s` with the ranks
    that did not arrive.
    """
    leave()
    address, port = meeting
    store = PrefixStore(name, find_store(address, port, STORE_CALL_S))
    check_in(store, seat, who, rendezvous_s)
    os.environ["GLOO_SOCKET_IFNAME"] = interface_of(own)
    dist.init_process_group("gloo", store=store, rank=seat.rank, world_size=seat.world, timeout=timedelta(seconds=collective_s))


def check_in(store: Store, seat: Seat, who: str, rendezvous_s: float) -> None:
    """Take the seat in the store and wait for the others, before gloo does: gloo would only say that it timed out."""
    if store.add(f"taken{seat.rank}", 1) > 1:
        text = f"rank {seat.rank} of {seat.world} is wanted by {who} and by another replica"
        raise InferenceEngineError("InitializeError", f"{text}; ranks must be given out, not hashed")
    store.set(f"rank{seat.rank}", who)
    keys = [f"rank{rank}" for rank in range(seat.world)]
    try:
        store.wait(keys, timedelta(seconds=rendezvous_s))
    except dist.DistError as error:
        absent = [str(rank) for rank, key in enumerate(keys) if not store.check([key])]
        text = f"rank {', '.join(absent)} of {seat.world} did not arrive within {rendezvous_s:g} s"
        raise InferenceEngineError("InitializeError", text) from error


def leave() -> None:
    """Give up the group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def exchange() -> Iterator[None]:
    """Around anything that ranks do together. Raises InferenceEngineError (RolloutError) when another rank is lost or hangs."""
    try:
        yield
    except RuntimeError as error:  # gloo begins with a place in its sources
        said = str(error).split("] ", 1)[-1].split(". This is typically", 1)[0]
        raise InferenceEngineError("RolloutError", f"rank {dist.get_rank()} has lost another rank: {said}") from error


def versions_of_all(version: int) -> list[int]:
    """The version of the weights that each rank holds, by rank."""
    mine = torch.tensor([version])
    every = [torch.zeros_like(mine) for _ in range(dist.get_world_size())]
    with exchange():
        dist.all_gather(every, mine)
    return [int(one) for one in every]


def spread(model: nn.Module, version: int, source: int | None) -> int:
    """Give every rank the weights of `source` (None: of whoever has the newest); returns their version."""
    versions = versions_of_all(version)
    rank = versions.index(max(versions)) if source is None else source
    held: Tensor = parameters_to_vector(model.parameters()).detach()
    flat = held.cpu().clone()  # gloo's own memory; a device's weights pass through the host
    with exchange():
        dist.broadcast(flat, rank)
    vector_to_parameters(flat.to(held.device), model.parameters())
    return versions[rank]


def agree(version: int) -> None:
    """Raises InferenceEngineError (UpdateWeightError) unless every rank holds the same version."""
    versions = versions_of_all(version)
    if len(set(versions)) > 1:
        raise InferenceEngineError("UpdateWeightError", f"the ranks hold weights of versions {versions}")
