"""What to look at before and while a policy is served: each point is tried here, and the last one is the service itself."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version

import requests

from rlhf.config import JobConfig
from rlhf.errors import EngineError
from rlhf.serving.config import ServingConfig
from rlhf.serving.protocol import GENERATE
from rlhf.serving.seats import Berth, give_out, rank_from
from rlhf.serving.service import running

#: From nothing to an answer; a loaded machine takes 40 s.
SERVICE_S = 180.0
LAUNCHER_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Check:
    """One point of the list: whether it is in order; ``reason`` says what was seen, or what is wrong."""

    check: str
    ok: bool
    reason: str


def checklist(config: JobConfig, serving: ServingConfig) -> list[Check]:
    """Try everything; the last point starts the service on the loopback and ends it again (10 to 40 s in all)."""
    points: dict[str, Callable[[], str]] = {
        "interface": _interface,
        "backend": _backend,
        "environment": lambda: environment(os.environ, serving),
        "devices": lambda: _devices(config, serving),
        "processors": lambda: processors(serving, os.cpu_count() or 1),
        "entry": lambda: _entry(config, serving),
        "rendezvous": _rendezvous,
    }
    found = [_tried(name, point) for name, point in points.items()]
    if all(check.ok for check in found):
        return [*found, _tried("service", lambda: _service(serving))]
    return [*found, Check("service", ok=False, reason="not tried: the points above come first")]


def _tried(name: str, point: Callable[[], str]) -> Check:
    try:
        return Check(name, ok=True, reason=point())
    except (EngineError, ValueError, OSError, RuntimeError) as error:
        return Check(name, ok=False, reason=str(error))


def _interface() -> str:
    from rlhf.serving.interface import require_all

    require_all()
    return f"ray {version('ray')} and torch {version('torch')} have every name that is needed"


def _backend() -> str:
    from torch import distributed

    if not distributed.is_gloo_available():
        raise RuntimeError("torch has no gloo backend here; replicas cannot form a group")
    return "gloo, with nccl beside it" if distributed.is_nccl_available() else "gloo (this torch has no nccl; none is needed)"


def environment(variables: Mapping[str, str], serving: ServingConfig) -> str:
    """What a launcher left in the environment. Raises InferenceEngineError when ranks come from there and are not in order."""
    if serving.rank_source == "environment":
        rank, world = rank_from(variables)
        return f"rank {rank} of {world} from the environment"
    found = [name for name in LAUNCHER_NAMES if variables.get(name)]
    return (
        f"{', '.join(found)} set, but not read" if found else "no RANK or WORLD_SIZE set, and none needed: ranks are given out"
    )


def _devices(config: JobConfig, serving: ServingConfig) -> str:
    import torch

    count = torch.cuda.device_count()
    seats = give_out([Berth("here", count)] * serving.ranks, config.device)
    return f"{count} CUDA device(s) here; the ranks are on {', '.join(seat.device for seat in seats)}"


def processors(serving: ServingConfig, count: int) -> str:
    """What the application asks against what a node of this machine offers. Raises ValueError when it is too much."""
    if serving.cpus > count:
        text = f"{serving.ranks} ranks of {serving.cpus_per_rank:g} CPU and the entry's {serving.cpus_of_entry:g}"
        raise ValueError(f"{text} are {serving.cpus:g}, this machine has {count}: a replica would never find a CPU")
    return f"asked {serving.cpus:g} CPU of {count}"


def _entry(config: JobConfig, serving: ServingConfig) -> str:
    from rlhf.serving.application import build

    build(config, serving)
    return "the application builds, and its entry can be called"


def _rendezvous() -> str:
    """A group of one, through a meeting point as the entry opens it."""
    from rlhf.meeting import open_store
    from rlhf.serving.group import join, leave, versions_of_all
    from rlhf.serving.seats import Seat

    store = open_store("127.0.0.1")
    try:
        join(Seat(0, 1, 0, "cpu"), "the check", "127.0.0.1", ("127.0.0.1", store.port), "check", 10.0, 10.0)
        versions_of_all(0)
    finally:
        leave()
    return "ranks can meet on the loopback"


def _service(serving: ServingConfig) -> str:
    """Start it, ask for one completion, end it."""
    with running(serving, SERVICE_S) as told:
        start = time.monotonic()
        answer = requests.post(f"{told['url']}{GENERATE}", json={"prompts": ["123"]}, timeout=serving.request_s)
        took_ms = 1e3 * (time.monotonic() - start)
    if not answer.ok:
        raise RuntimeError(f"HTTP {answer.status_code}: {answer.text}")
    said = answer.json()["results"][0]["samples"][0]["completion"]
    return (
        f"{serving.ranks} ranks met {told['ready_s']:.1f} s after the start; POST /generate said {said!r} in {took_ms:.0f} ms"
    )
