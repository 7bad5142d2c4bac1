"""Which figures of a job's configuration make sense, each by itself and together. Every refusal is one sentence."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

#: Smallest and largest value that makes sense; infinity: nobody knows one.
RANGES: dict[str, tuple[float, float]] = {
    "seed": (0, 2**50),
    "steps": (1, math.inf),
    "min_digits": (1, math.inf),
    "model_dim": (1, math.inf),
    "model_heads": (1, math.inf),
    "model_layers": (1, math.inf),
    "kl_coefficient": (0, math.inf),
    "inner_epochs": (1, math.inf),
    "rollout_microbatch_prompts": (1, math.inf),
    "kv_cache_mib": (0, math.inf),
    "arena_mib": (1, math.inf),
    "train_memory_mib": (0, math.inf),
    "upload_chunk_bytes": (1, math.inf),
    "latest_save_interval": (0, math.inf),
    "periodic_save_interval": (0, math.inf),
}
POSITIVE = ("time_scale", "learning_rate", "clip_ratio", "grad_clip", "temperature")


def refuse_out_of_range(config: Any, positions: int) -> None:
    """`config` is a JobConfig, `positions` are those of the built-in model. Raises ValueError."""
    for name, (low, high) in RANGES.items():
        if not low <= getattr(config, name) <= high:
            bounds = f"at least {low:g}" if high == math.inf else f"{low:g} to {high:g}"
            raise ValueError(f"{name} is {getattr(config, name)}; wanted: {bounds}")
    durations = {f"timeouts {field.name}": getattr(config.timeouts, field.name) for field in fields(config.timeouts)}
    for name, value in {**{name: getattr(config, name) for name in POSITIVE}, **durations}.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} is {value}; wanted: above 0")
    _refuse_together(config, positions)


def _refuse_together(config: Any, positions: int) -> None:
    if config.min_digits > config.max_digits:
        raise ValueError(f"min_digits {config.min_digits} is above max_digits {config.max_digits}")
    if config.prompts_per_step < config.train_workers:
        text = f"prompts_per_step {config.prompts_per_step}: a train worker has at least one prompt's samples"
        raise ValueError(f"{text}, and there are {config.train_workers}")
    if config.model_path:
        return
    if config.model_dim % config.model_heads:
        raise ValueError(f"model_heads {config.model_heads} does not divide model_dim {config.model_dim}")
    most = (positions - 3) // 2
    if config.max_digits > most:
        raise ValueError(f"max_digits is {config.max_digits}; wanted: at most {most}, for the model has {positions} positions")
