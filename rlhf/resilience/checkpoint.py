"""Checkpoints that are durable before they are visible, and read only after every byte was checked.

A checkpoint is a folder `checkpoint_<step>.<n>` (n counts saves of the same step): one file an item and a manifest of sizes and
sha256 sums, which carries its own sum.
It is written under another name, synced file by file, renamed, and only then does the link `latest_checkpoint` turn, by a
rename as well. The one before is kept: a checkpoint found damaged costs steps, not the run.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

logger = logging.getLogger(__name__)

LINK = "latest_checkpoint"
MANIFEST = "manifest.json"
KEPT = 2


class DamagedCheckpointError(Exception):
    """A checkpoint that is not what was written; the text names file and difference."""


def save_checkpoint(folder: Path, state: Mapping[str, Any], step: int) -> dict[str, int]:
    """Write `state` as the checkpoint of `step` and make it the latest; returns bytes by file name.

    Whatever fails before it returns, the latest is whole: this one or the one before. Raises OSError (RuntimeError from
    inside torch) when the file system does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    part, final = folder / ".part", _unused(folder, step)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        for name, item in state.items():
            with (part / f"{name}.pt").open("wb") as file:
                torch.save(item, file)
                _sync(file)
        files = {path.name: _facts(path) for path in sorted(part.iterdir())}
        with (part / MANIFEST).open("wb") as file:
            file.write(_sealed({"step": step, "files": files}))
            _sync(file)
        _sync_folder(part)
        part.rename(final)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    _turn_link(folder, final.name)
    _forget_old(folder, final)
    return {path.name: path.stat().st_size for path in sorted(final.iterdir())}


def load_checkpoint(folder: Path, *others: Path) -> tuple[dict[str, Any], int]:
    """State and step of the newest checkpoint of a folder that is whole; a damaged one is passed over with a warning.

    When none is, the newest of the other folders that is no later than those: a later one is of a course that was given up.
    Raises FileNotFoundError when there was never one, DamagedCheckpointError when none is whole.
    """
    found = _newest_first(folder)
    more = sorted((path for other in others for path in _newest_first(other)), key=_order, reverse=True)
    found += [path for path in more if not found or _order(path)[0] <= _order(found[0])[0]]
    if not found:
        raise FileNotFoundError(f"no checkpoint in {folder}")
    for path in found:
        try:
            step, names = verify_checkpoint(path)
        except DamagedCheckpointError as error:
            logger.warning("checkpoint is damaged and passed over: %s", error)
            continue
        return {Path(name).stem: torch.load(path / name, weights_only=True) for name in names}, step
    raise DamagedCheckpointError(f"none of {len(found)} checkpoint(s) in {folder} is whole")


def verify_checkpoint(path: Path) -> tuple[int, list[str]]:
    """Step and file names of a checkpoint after comparing every byte. Raises DamagedCheckpointError."""
    try:
        manifest = _unsealed((path / MANIFEST).read_bytes())
        present = {file.name for file in path.iterdir()} - {MANIFEST}
        if present != set(manifest["files"]):
            raise DamagedCheckpointError(f"{path.name} holds {sorted(present)}, its manifest {sorted(manifest['files'])}")
        for name, facts in manifest["files"].items():
            if (now := _facts(path / name)) != facts:
                raise DamagedCheckpointError(f"{path.name}/{name} is {now}, its manifest says {facts}")
    except OSError as error:
        raise DamagedCheckpointError(f"{path.name}: {error}") from error
    return manifest["step"], list(manifest["files"])


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("checkpoint_*.*"), key=_order, reverse=True)


def _unused(folder: Path, step: int) -> Path:
    """A name for the checkpoint of `step`; never one that is there: the only good copy is not removed to make room."""
    saved = [number for at, number in map(_order, _newest_first(folder)) if at == step]
    return folder / f"checkpoint_{step:09d}.{max(saved, default=-1) + 1}"


def _order(path: Path) -> tuple[int, int]:
    """Step, and how many times that step was saved before."""
    step, _, number = path.name.removeprefix("checkpoint_").partition(".")
    return int(step), int(number)


def _facts(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _sealed(manifest: dict[str, Any]) -> bytes:
    """The manifest with its own sum in front."""
    text = json.dumps(manifest, sort_keys=True).encode()
    return hashlib.sha256(text).hexdigest().encode() + b" " + text + b"\n"


def _unsealed(content: bytes) -> dict[str, Any]:
    """Back again. Any byte of it that differs is a DamagedCheckpointError."""
    text = content[65:-1]
    if content != hashlib.sha256(text).hexdigest().encode() + b" " + text + b"\n":
        raise DamagedCheckpointError("the manifest does not fit its own sum")
    manifest: dict[str, Any] = json.loads(text)
    return manifest


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _turn_link(folder: Path, target: str) -> None:
    """Let the link name another checkpoint in one step, after that checkpoint's own name is durable."""
    _sync_folder(folder)
    aside = folder / f".{LINK}"
    aside.unlink(missing_ok=True)
    aside.symlink_to(target)
    aside.replace(folder / LINK)
    _sync_folder(folder)


def _forget_old(folder: Path, newest: Path) -> None:
    """Keep `newest` and the ones before it, KEPT in all; a later step is of a course that was given up."""
    found = _newest_first(folder)
    kept = [path for path in found if _order(path) <= _order(newest)][:KEPT]
    for path in set(found) - set(kept):
        shutil.rmtree(path, ignore_errors=True)
