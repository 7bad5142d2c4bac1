"""Who is which rank on which device. Given out by the application in one place; the two other ways are kept to be compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rlhf.errors import InferenceEngineError


@dataclass(frozen=True)
class Berth:
    """Where a replica came to run: its Ray node and how many accelerators that node shows it."""

    node: str
    devices: int


@dataclass(frozen=True)
class Seat:
    """One replica's place in the group. `local_rank` counts on its node; `device` is torch's name of it."""

    rank: int
    world: int
    local_rank: int
    device: str


def give_out(berths: Sequence[Berth], kind: str) -> list[Seat]:
    """A seat for each berth, in order: ranks 0..n-1, and on each node the devices 0, 1, ... one for each replica.

    Raises InferenceEngineError (InitializeError) when a node has fewer devices than replicas: two never share one silently.
    """
    taken: Counter[str] = Counter()
    seats = []
    for rank, berth in enumerate(berths):
        local_rank = taken[berth.node]
        taken[berth.node] += 1
        if kind == "cuda" and local_rank >= berth.devices:
            here = sum(other.node == berth.node for other in berths)
            text = f"device ordinal {local_rank} of rank {rank} is out of range: its node has {berth.devices} CUDA device(s)"
            raise InferenceEngineError("InitializeError", f"{text} for {here} replica(s)")
        seats.append(Seat(rank, len(berths), local_rank, f"cuda:{local_rank}" if kind == "cuda" else "cpu"))
    return seats


def seat_taken(seat: Seat, source: str, tag: str, environment: Mapping[str, str]) -> Seat:
    """The seat a replica really takes: the one given to it, or the rank its environment or its hashed tag says."""
    if source == "environment":
        rank, world = rank_from(environment)
        return replace(seat, rank=rank, world=world)
    if source == "hashed":
        return replace(seat, rank=hash(tag) % seat.world)
    return seat


def rank_from(environment: Mapping[str, str]) -> tuple[int, int]:
    """(rank, world) from RANK and WORLD_SIZE. Raises InferenceEngineError (InitializeError) naming what is wrong with them."""
    names = ("RANK", "WORLD_SIZE")
    missing = [name for name in names if not environment.get(name)]
    if missing:
        raise InferenceEngineError(
            "InitializeError",
            f"environment variable {' and '.join(missing)} expected, but not set; Serve sets none: have ranks given out",
        )
    try:
        rank, world = (int(environment[name]) for name in names)
    except ValueError as error:
        raise InferenceEngineError("InitializeError", f"RANK and WORLD_SIZE must be whole numbers: {error}") from error
    if not 0 <= rank < world:
        raise InferenceEngineError("InitializeError", f"RANK {rank} is not in 0..{world - 1} (WORLD_SIZE {world})")
    return rank, world
