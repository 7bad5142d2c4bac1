"""How big an experiment is: time scale, workers, steps. Data; scenarios say what happens, profiles how large."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

#: What is looked at besides processes and hosts, unless a scenario says otherwise. Not: pings, which are packets of our own.
SOURCES = ("links", "disk", "groups", "nfs", "sync", "gpu", "kernel", "arena")


@dataclass(frozen=True)
class Profile:
    """One size. `job` overrides JobConfig; `warmup_steps` are left out of every statistic.

    Every announcement of a stage is answered `hold_s` after it was made, in every arm: faults are put in force meanwhile, and
    the pauses are the same whether and wherever there is one.
    """

    name: str
    job: dict[str, Any]
    warmup_steps: int
    baselines: int
    repeats: int
    scenarios: tuple[str, ...]
    meaning: str
    sources: tuple[str, ...] = SOURCES
    sample_hz: float = 4.0
    sync_every_s: float = 10.0
    hold_s: float = 0.05


#: The five of the experiment plan, each in all its arms.
CATALOGUE_A = ("weight-sync-link", "rollout-cpu-oom", "train-oom-masked", "colocated-handover-lost", "checkpoint-torn")

#: Two warm-up steps and ten measured ones, as the experiment plan asks of a baseline.
SMOKE = Profile(
    "smoke",
    {"time_scale": 360.0, "train_workers": 2, "rollout_workers": 2, "steps": 12},
    warmup_steps=2,
    baselines=3,
    repeats=1,
    scenarios=CATALOGUE_A,
    meaning="the first command and CI: minutes on two cores",
    hold_s=0.02,
)
SEALED = replace(
    SMOKE,
    name="sealed",
    meaning="published sets: as smoke, with stages that last for two samples and more",
    sample_hz=10.0,
    sync_every_s=0.2,
    hold_s=0.1,
)
PROFILES: dict[str, Profile] = {
    profile.name: profile
    for profile in (
        SMOKE,
        SEALED,
        Profile(
            "nightly",
            {"time_scale": 60.0, "train_workers": 4, "rollout_workers": 4, "steps": 12},
            warmup_steps=2,
            baselines=5,
            repeats=2,
            scenarios=(*CATALOGUE_A, "worker-kill"),
            meaning="repeats and drawn targets, for intervals",
        ),
    )
}


def profile(name: str) -> Profile:
    """The profile called `name`; ValueError lists the known ones."""
    if name not in PROFILES:
        raise ValueError(f"unknown profile {name!r}; known: {', '.join(PROFILES)}")
    return PROFILES[name]
