"""Checkpoints in the legacy way: `latest_checkpoint_odd` or `_even` by the step's parity, and a link to the one that counts.

The order is that of the trainer this job is modelled on, gaps and all: the target is removed before its successor is
written, and the link is removed before it is made anew.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

LINK = "latest_checkpoint"
INFO = "recover_info.json"


def save_checkpoint(folder: Path, state: Mapping[str, Any], step: int) -> dict[str, int]:
    """Write one file per item of `state`, then the recover info, then turn the link; returns bytes by file name.

    Raises OSError (RuntimeError from inside torch) when the file system does.
    """
    target, other = _target(folder, step), _target(folder, step + 1)
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for name, item in state.items():
        torch.save(item, target / f"{name}.pt")
    (target / INFO).write_text(json.dumps({"step": step, "items": sorted(state)}) + "\n")
    link = folder / LINK
    link.unlink(missing_ok=True)
    link.symlink_to(target.name)
    shutil.rmtree(other, ignore_errors=True)
    return {path.name: path.stat().st_size for path in sorted(target.iterdir())}


def size_of(folder: Path, step: int) -> int:
    """Bytes of the files that lie where the checkpoint of `step` is, or should have been, written; 0 if that cannot be told."""
    try:
        return sum(path.stat().st_size for path in _target(folder, step).iterdir())
    except OSError:
        return 0


def load_checkpoint(folder: Path) -> tuple[dict[str, Any], int]:
    """State and step of the latest checkpoint. Raises FileNotFoundError without one; torch's own errors on a damaged file."""
    latest = folder / LINK
    info = json.loads((latest / INFO).read_text())
    state = {name: torch.load(latest / f"{name}.pt", weights_only=True) for name in info["items"]}
    return state, int(info["step"])


def _target(folder: Path, step: int) -> Path:
    return folder / f"{LINK}_{'odd' if step % 2 else 'even'}"
