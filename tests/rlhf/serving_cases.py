"""Applications with one mistake each, to be deployed for real; what they make Serve say is what the tests read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from ray import serve

from rlhf.config import JobConfig
from rlhf.serving.application import REPLICA, as_entry, build, deploy
from rlhf.serving.config import ServingConfig
from rlhf.serving.entry import Entry
from rlhf.serving.replica import keep_home

CONFIG = JobConfig(seed=4, train_workers=1, prompts_per_step=5, samples_per_prompt=3)
SMALL = {"cpus_per_rank": 0.1, "cpus_of_entry": 0.1}
LIGHT = {**REPLICA, "ray_actor_options": {"num_cpus": 0.1}}


class Silent:
    """Can generate, but nobody can call it."""

    def __init__(self) -> None:
        keep_home()

    async def generate(self) -> str:
        return "never heard"


class Hasty(Entry):
    """Calls its handle as if it were the object."""

    async def _sample(self, ask):
        return self._ranks[0](ask)


def policy() -> None:
    """The real thing, two ranks."""
    deploy(build(CONFIG, ServingConfig(**SMALL)), 120)


def without_call() -> None:
    """What happens if nobody looks before deploying."""
    deploy(serve.deployment(Silent).options(**LIGHT).bind(), 60, "silent", "/silent")


def without_call_refused() -> None:
    as_entry(Silent)


def handle_called() -> None:
    rank = serve.deployment(Silent).options(**LIGHT, name="quiet").bind()
    deploy(as_entry(Hasty).options(**LIGHT).bind(CONFIG, ServingConfig(**SMALL), rank), 60)


def without_environment() -> None:
    deploy(build(CONFIG, ServingConfig(ranks=1, rank_source="environment", **SMALL)), 60, "env", "/env")


def without_device() -> None:
    """One replica more than there are CUDA devices here (of which there may be none)."""
    ranks = torch.cuda.device_count() + 1
    deploy(build(replace(CONFIG, device="cuda"), ServingConfig(ranks=ranks, **SMALL)), 120)


def without_cpu() -> None:
    deploy(build(CONFIG, ServingConfig(ranks=1, cpus_per_rank=64)), 3, "large", "/large")


KNOWN = (policy, without_call, without_call_refused, handle_called, without_environment, without_device, without_cpu)
CASES: dict[str, Callable[[], None]] = {case.__name__: case for case in KNOWN}
