"""Which checkpoint a job goes on from, and what that must tell besides weights: step, place in the data, random state."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from rlhf.config import JobConfig
from rlhf.errors import TrainEngineError

#: Sources of a recovery that may be empty: the latest checkpoint, the newest periodic one.
LATEST, PERIODIC = KINDS = ("latest", "periodic")
#: What a train worker put down for lost fellows.
RESCUE = "rescue"
PERIODIC_NAME = re.compile(r"epoch\d+epochstep\d+globalstep(\d+)")


def periodic_name(epoch: int, step: int) -> str:
    """The folder of a periodic checkpoint, in that of the checkpoints."""
    return f"epoch{epoch}epochstep{step}globalstep{step}"


def folders_of(job_dir: Path, source: str) -> list[Path]:
    """Where to look for a checkpoint, in that order: by one of KINDS, RESCUE or a periodic one's name. At least one folder."""
    recover = job_dir / "recover"
    if source == RESCUE:
        return [job_dir / RESCUE]
    if source not in KINDS:
        return [recover / source]
    found = [(int(match[1]), path) for path in recover.glob("epoch*") if (match := PERIODIC_NAME.fullmatch(path.name))]
    periodic = [path for _, path in sorted(found, reverse=True)]
    return [recover, *periodic] if source == LATEST else periodic or [recover / PERIODIC]


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
