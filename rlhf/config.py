"""The job's configuration: frozen, typed, JSON on disk. Durations are nominal seconds, divided by `time_scale` when used."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

#: Tokens of the task: ten digits, BOS, SEP, EOS.
VOCABULARY = 13
#: Learned positions of the model; a prompt and completion of 13 digits each fit.
CONTEXT = 32


@dataclass(frozen=True)
class Timeouts:
    """Nominal time-outs in seconds, as the trainer this job is modelled on has them (one hour is one hour at scale 1)."""

    rpc: float = 7200.0
    """default of an RPC without a stricter one"""
    rpc_grace: float = 60.0
    """what the caller adds to the callee's own deadline"""
    init: float = 1800.0
    create_engine: float = 300.0
    upload_weights: float = 3600.0
    """the controller's wait for a train worker's upload"""
    update_weights: float = 3600.0
    """a rollout worker's own wait for all shards"""
    rollout: float = 7200.0
    reward: float = 60.0
    reference: float = 3600.0
    train_batch: float = 3600.0
    collective: float = 1800.0
    save: float = 3600.0
    event: float = 600.0
    stop_job: float = 30.0
    health: float = 5.0
    body_read: float = 120.0


#: Smallest scaled value of a time-out, seconds; start-up is compute and does not scale, so it has a floor of its own.
FLOOR_S = 0.25
FLOORS_S = {
    "init": 60.0,
    "create_engine": 60.0,
    "health": 5.0,
    "reward": 5.0,
    "collective": 10.0,
    "body_read": 5.0,
    "rpc_grace": 1.0,
    "stop_job": 1.0,
}


#: What the switches of a posture that are words may say.
POSTURE_WORDS = {
    "partial_rollout": ("continue", "abort"),
    "on_notify_failure": ("warn", "raise"),
    "on_save_failure": ("warn", "raise"),
    "retry": ("trainer", "hasty", "patient", "backoff"),
}


@dataclass(frozen=True)
class Posture:
    """How the job behaves when something fails: one switch a mechanism. The defaults are the legacy posture."""

    partial_rollout: str = "continue"
    """continue: a failed rollout worker's share is dropped; abort: the rollout stage raises"""
    on_notify_failure: str = "warn"
    """warn | raise"""
    on_save_failure: str = "warn"
    """warn | raise"""
    retry: str = "trainer"
    """by which preset of `rlhf.resilience.retry` a call that was never received is sent again"""
    atomic_checkpoint: bool = False
    """checkpoints are durable before they are visible and verified before use; the last good one is never removed first"""
    stage_deadline: bool = False
    """calls of workers are given up at a bound learned from how long they took, if that is shorter than their time-out"""
    first_cause: bool = False
    """errors of the cleanup are warnings and notes; the cause is the last error told"""
    acked_events: bool = False
    """an event has succeeded when its receiver names it and its step in the answer"""

    def __post_init__(self) -> None:
        for name, words in POSTURE_WORDS.items():
            if getattr(self, name) not in words:
                raise ValueError(f"posture {name} is {getattr(self, name)!r}; allowed: {', '.join(words)}")
        for name in {f.name for f in fields(self)} - set(POSTURE_WORDS):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"posture {name} is {getattr(self, name)!r}; allowed: true, false")  # noqa: TRY004 - a user's value


#: Every mechanism on.
HARDENED = Posture(
    partial_rollout="abort",
    on_notify_failure="raise",
    on_save_failure="raise",
    retry="backoff",
    atomic_checkpoint=True,
    stage_deadline=True,
    first_cause=True,
    acked_events=True,
)


@dataclass(frozen=True)
class JobConfig:
    """One GRPO job on variable-length digit reversal. Units are in the names; `time_scale` divides all durations."""

    seed: int = 1
    steps: int = 12
    time_scale: float = 360.0
    train_workers: int = 2
    rollout_workers: int = 2
    reference_workers: int = 1
    prompts_per_step: int = 16
    samples_per_prompt: int = 8
    min_digits: int = 3
    max_digits: int = 6
    model_dim: int = 64
    model_heads: int = 4
    model_layers: int = 2
    learning_rate: float = 2e-3
    kl_coefficient: float = 0.01
    clip_ratio: float = 0.2
    inner_epochs: int = 2
    grad_clip: float = 1.0
    temperature: float = 1.0
    rollout_microbatch_prompts: int = 4
    """prompts a rollout worker decodes at once; each micro-batch allocates its own key/value cache"""
    kv_cache_mib: int = 48
    """size of the key/value cache allocated per micro-batch (the model needs less; serving engines reserve ahead)"""
    upload_chunk_bytes: int = 65536
    latest_save_interval: int = 2
    periodic_save_interval: int = 0
    """0 = never"""
    timeouts: Timeouts = field(default_factory=Timeouts)
    posture: Posture = field(default_factory=Posture)

    @property
    def parameter_bytes(self) -> int:
        """Size of the policy's float32 parameters, without building it (a test holds it to the model)."""
        dim = self.model_dim
        embeddings = (2 * VOCABULARY + CONTEXT) * dim
        return 4 * (embeddings + self.model_layers * (12 * dim * dim + 13 * dim) + 2 * dim)

    def timeout_s(self, name: str) -> float:
        """The time-out `name` after scaling and floors, in seconds."""
        nominal = float(getattr(self.timeouts, name))
        return max(nominal / self.time_scale, FLOORS_S.get(name, FLOOR_S))

    def save(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")


def job_config(data: dict[str, Any]) -> JobConfig:
    """A JobConfig from plain JSON types; unknown keys are refused by name."""
    known = {f.name for f in fields(JobConfig)}
    unknown = sorted(set(data) - known)
    if unknown:
        raise ValueError(f"unknown job key(s) {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    nested = {"timeouts": Timeouts, "posture": Posture}
    values: dict[str, Any] = {}
    for name, value in data.items():
        if name in nested and isinstance(value, dict):
            allowed = {f.name for f in fields(nested[name])}
            strange = sorted(set(value) - allowed)
            if strange:
                raise ValueError(f"unknown {name} key(s) {', '.join(strange)}; known: {', '.join(sorted(allowed))}")
            values[name] = nested[name](**value)
        else:
            values[name] = value
    return JobConfig(**values)


def load_config(path: Path) -> JobConfig:
    """Read what `JobConfig.save` wrote."""
    return job_config(json.loads(path.read_text()))
