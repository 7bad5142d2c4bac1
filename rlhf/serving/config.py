"""How the policy is served: how many ranks, where their numbers come from, and every bound in seconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rlhf.plain import from_plain

#: given: the application numbers its replicas. environment: RANK and WORLD_SIZE, as a launcher sets them.
#: hashed: the replica's tag, hashed; it is how such applications are often mended, and it collides.
RANK_SOURCES = ("given", "environment", "hashed")


@dataclass(frozen=True)
class ServingConfig:
    """One application on Ray Serve: an entry and a torch.distributed group of `ranks` replicas behind it."""

    ranks: int = 2
    rank_source: str = "given"
    cpus_per_rank: float = 0.5
    cpus_of_entry: float = 0.25
    host: str = ""
    """the host whose Ray node must carry the ranks; empty = any that has the CPU"""
    deploy_s: float = 90.0
    """until every replica runs, its constructor included"""
    rendezvous_s: float = 30.0
    """until every rank of the group has arrived"""
    collective_s: float = 30.0
    """any one exchange between ranks"""
    request_s: float = 120.0
    """one request, including a new rendezvous when a replica was replaced"""

    def __post_init__(self) -> None:
        if self.ranks < 1:
            raise ValueError(f"ranks must be at least 1, not {self.ranks}")
        if self.rank_source not in RANK_SOURCES:
            raise ValueError(f"unknown rank_source {self.rank_source!r}; known: {', '.join(RANK_SOURCES)}")
        for name in ("cpus_per_rank", "cpus_of_entry", "deploy_s", "rendezvous_s", "collective_s", "request_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")

    @property
    def cpus(self) -> float:
        """What the whole application asks of the cluster."""
        return self.ranks * self.cpus_per_rank + self.cpus_of_entry


def serving_config(data: dict[str, Any]) -> ServingConfig:
    """A ServingConfig from plain JSON types. Raises ValueError, one sentence."""
    return from_plain(ServingConfig, data, "serving")
