"""The job's configuration: frozen, typed, JSON on disk. Durations are nominal seconds, divided by `time_scale` when used."""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from rlhf.limits import refuse_out_of_range
from rlhf.plain import from_plain
from rlhf.serving.config import ServingConfig

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
    arena: float = 3600.0
    """how long a worker tries to get memory of a shared device"""
    event: float = 600.0
    min_clients: float = 3600.0
    """how long training pauses for workers that are offline before it fails"""
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
    "min_clients": 10.0,
}


#: What the switches of a posture that are words may say.
POSTURE_WORDS = {
    "partial_rollout": ("continue", "abort", "exit"),
    "on_notify_failure": ("warn", "raise"),
    "on_save_failure": ("warn", "raise"),
    "on_reward_failure": ("raise", "zero"),
    "retry": ("trainer", "hasty", "patient", "grpc_send", "backoff"),
    "metaserver": ("process", "controller"),
}


@dataclass(frozen=True)
class Posture:
    """How the job behaves when something fails: one switch a mechanism. The defaults are the legacy posture."""

    partial_rollout: str = "continue"
    """a failed rollout worker: continue: its share is dropped; abort: the stage raises; exit: the controller ends by SIGTERM"""
    on_notify_failure: str = "warn"
    """warn | raise"""
    on_save_failure: str = "warn"
    """warn | raise"""
    on_reward_failure: str = "raise"
    """a rollout worker that gets no scores: raise: it fails; zero: its completions count as wrong, with a warning"""
    retry: str = "trainer"
    """by which preset of `rlhf.resilience.retry` a call that was never received is sent again"""
    readiness: bool = False
    """a busy worker counts as alive, and the first step waits until every engine says that it is initialized"""
    atomic_checkpoint: bool = False
    """checkpoints are durable before they are visible and verified before use; the last good one is never removed first"""
    stage_deadline: bool = False
    """calls of workers are given up at a bound learned from how long they took, if that is shorter than their time-out; an
    upload is given up by who uploads"""
    restart: bool = False
    """processes that are lost are started again, train workers in their last good state, and what failed is done once more"""
    first_cause: bool = False
    """errors of the cleanup are warnings and notes; the cause is the last error told, and not who waited in vain for it"""
    acked_events: bool = False
    """an event has succeeded when its receiver names it and its step in the answer; without an answer it is told again, and one
    that is overtaken is not obeyed"""
    heartbeats: bool = False
    """workers beat to the controller; one that is silent is offline: skipped, and not waited for, until it is heard again"""
    metaserver: str = "process"
    """where it is, rather than how it fails: process: one of its own; controller: a thread of the controller's"""

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
    readiness=True,
    atomic_checkpoint=True,
    stage_deadline=True,
    restart=True,
    first_cause=True,
    acked_events=True,
    heartbeats=True,
)


@dataclass(frozen=True)
class JobConfig:
    """One job on variable-length digit reversal. Units are in the names; `time_scale` divides all durations.

    Raises ValueError, in one sentence, for a job that nobody could run.
    """

    workload: str = "grpo"
    """grpo: rollouts, rewards, group-relative advantages; sft: cross-entropy on right answers, by the train workers alone"""
    seed: int = 1
    steps: int = 12
    time_scale: float = 360.0
    train_workers: int = 2
    rollout_workers: int = 2
    reference_workers: int = 1
    port_strategy: str = "fixed"
    """fixed: workers listen where the name table says; auto: the scheduler gives each a free port, from 38000 on"""
    rollout_engine: str = "worker"
    """worker: a rollout worker samples itself; served: it has the policy on Ray Serve sample (`serving`), and scores"""
    shard_size: int = 1
    """train ranks over which one replica of the model lies in pieces; 1 = every rank has the whole model"""
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    prompts_per_step: int = 16
    samples_per_prompt: int = 8
    min_digits: int = 3
    max_digits: int = 6
    model_path: str = ""
    """folder of a Hugging Face causal language model (extra `hf`); empty = the built-in one, of the three sizes below"""
    device: str = "cpu"
    """cpu (float32) | cuda (bfloat16 by autocast)"""
    model_dim: int = 64
    model_heads: int = 4
    model_layers: int = 2
    learning_rate: float = 2e-3
    kl_coefficient: float = 0.01
    clip_ratio: float = 0.2
    inner_epochs: int = 2
    grad_clip: float = 1.0
    temperature: float = 1.0
    rollout_microbatch_prompts: int = 16
    """prompts a rollout worker decodes at once; each micro-batch allocates its own key/value cache"""
    kv_cache_mib: int = 48
    """size of the key/value cache allocated per micro-batch (the model needs less; serving engines reserve ahead)"""
    colocated: bool = False
    """train worker r and rollout worker r share one device, by turns: they hand it over by the four events"""
    arena_path: str = ""
    """folder of the shared devices' memory; empty = `arena` in the job's folder"""
    arena_mib: int = 64
    train_memory_mib: int = 60
    """what a train worker takes of a shared device for its state and what training needs besides"""
    weight_sync: str = "metaserver"
    """metaserver: shards through the store, uploads and updates at once; disk: through the job's folder, one after the other"""
    disk_source: str = "fresh"
    """fresh: shards are saved for each update; latest: rollout workers read the latest checkpoint, however old"""
    upload_chunk_bytes: int = 65536
    latest_save_interval: int = 2
    periodic_save_interval: int = 0
    """0 = never"""
    min_clients_threshold: int = 0
    """training pauses while fewer workers (train, rollout, reference) are online; without heartbeats nobody knows"""
    recover_mode: str = "disabled"
    """disabled: begin at step 0; auto: go on after a checkpoint of the job's folder, if there is one that loads"""
    recover_from: str = "latest"
    """latest | periodic (the newest of those that are kept) | a periodic checkpoint's name, epoch0epochstep4globalstep4"""
    timeouts: Timeouts = field(default_factory=Timeouts)
    posture: Posture = field(default_factory=Posture)
    serving: ServingConfig = field(default_factory=ServingConfig)

    def __post_init__(self) -> None:
        refuse_impossible(self)

    @property
    def parameter_bytes(self) -> int:
        """Size of the policy's float32 parameters, without building it (a test holds it to the model)."""
        if self.model_path:
            return 4 * stored_elements(Path(self.model_path))
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


def refuse_impossible(config: JobConfig) -> None:
    """Raises ValueError, in one sentence, for a job that nobody could run."""
    words = {
        "workload": ("grpo", "sft"),
        "port_strategy": ("fixed", "auto"),
        "rollout_engine": ("worker", "served"),
        "device": ("cpu", "cuda"),
        "weight_sync": ("metaserver", "disk"),
        "disk_source": ("fresh", "latest"),
        "recover_mode": ("disabled", "auto"),
    }
    for name, allowed in words.items():
        if getattr(config, name) not in allowed:
            raise ValueError(f"{name} is {getattr(config, name)!r}; allowed: {', '.join(allowed)}")
    if not re.fullmatch(r"latest|periodic|epoch\d+epochstep\d+globalstep\d+", config.recover_from):
        example = "epoch0epochstep4globalstep4"
        raise ValueError(f"recover_from is {config.recover_from!r}; allowed: latest, periodic, or a name like {example}")
    _refuse_layouts(config)
    _refuse_sizes(config)
    refuse_out_of_range(config, CONTEXT)


def _refuse_layouts(config: JobConfig) -> None:
    """What is not built, or not together."""
    for name in ("tensor_parallel_size", "pipeline_parallel_size"):
        if getattr(config, name) != 1:
            raise ValueError(f"{name} {getattr(config, name)}: not built; a model is split over ranks by shard_size alone")
    if config.shard_size < 1 or config.train_workers % config.shard_size:
        raise ValueError(f"shard_size {config.shard_size} does not divide train_workers {config.train_workers}")
    if config.colocated and config.shard_size > 1:
        raise ValueError("colocated: built for whole models (shard_size 1)")
    if config.rollout_engine == "served" and (config.colocated or config.workload != "grpo"):
        raise ValueError("rollout_engine served: for workload grpo with devices of its own, not colocated")
    needed_mib = max(config.train_memory_mib, config.kv_cache_mib)
    if config.colocated and config.device == "cpu" and needed_mib > config.arena_mib:
        raise ValueError(f"arena_mib {config.arena_mib}: a worker alone needs {needed_mib} MiB of the shared device")


def _refuse_sizes(config: JobConfig) -> None:
    """Workers without work, and work without workers."""
    if config.workload == "sft" and (config.rollout_workers or config.reference_workers):
        raise ValueError("workload sft has no rollouts and no reference: rollout_workers and reference_workers must be 0")
    roles = ("train_workers",) if config.workload == "sft" else ("train_workers", "rollout_workers", "reference_workers")
    for name in (*roles, "prompts_per_step", "samples_per_prompt"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} is {getattr(config, name)}: workload {config.workload} needs at least 1")
    workers = config.train_workers + config.rollout_workers + config.reference_workers
    if not 0 <= config.min_clients_threshold <= workers:
        raise ValueError(f"min_clients_threshold {config.min_clients_threshold}: the job has {workers} workers")


def stored_elements(folder: Path) -> int:
    """Number of parameters in a folder's safetensors files, by their headers. Raises ValueError when it has none."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(f"model_path {folder}: no safetensors file there")
    total = 0
    for path in files:
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        total += sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
    return total


def job_config(data: dict[str, Any]) -> JobConfig:
    """A JobConfig from plain JSON types. Raises ValueError, one sentence, for what is unknown or impossible."""
    return from_plain(JobConfig, data, "job")


def load_config(path: Path) -> JobConfig:
    """Read what `JobConfig.save` wrote."""
    return job_config(json.loads(path.read_text()))
