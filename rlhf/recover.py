"""What a checkpoint must tell besides weights for a job to go on where it stopped: step, place in the data, random state."""

from __future__ import annotations

from typing import Any

import torch

from rlhf.config import JobConfig
from rlhf.errors import TrainEngineError


def recover_info(config: JobConfig, step: int) -> dict[str, Any]:
    """After `step`. `data_cursor` counts the prompts that were drawn so far; prompts are a function of seed and step."""
    return {
        "step": step,
        "seed": config.seed,
        "data_cursor": (step + 1) * config.prompts_per_step,
        "rng": torch.get_rng_state(),
    }


def take_up(info: dict[str, Any], config: JobConfig) -> int:
    """The step that `info` was written after; the random state is as it was then.

    Raises TrainEngineError (RecoverError), changing nothing, when the job would go on with other prompts than it began with.
    """
    step = int(info["step"])
    expected = {"seed": config.seed, "data_cursor": (step + 1) * config.prompts_per_step}
    for name, value in expected.items():
        if info[name] != value:
            text = f"the checkpoint of step {step} has {name} {info[name]}, this job would have {value}"
            raise TrainEngineError("RecoverError", text)
    torch.set_rng_state(info["rng"])
    return step
