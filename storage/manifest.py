"""The run's manifest: public facts that name no fault. Scenario and arm are truth and live in the plan."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from storage.atomic import write_atomic
from storage.layout import RunPaths
from storage.records import SCHEMA_VERSION


class RunState(StrEnum):
    """Where a run is in its life. ``invalid``: it ran, but the planned thing did not happen; it counts for nothing."""

    RUNNING = "running"
    COMPLETED = "completed"
    INVALID = "invalid"
    CRASHED = "crashed"
    CANCELLED = "cancelled"


_NUMBER = (int, float)
_TYPES: dict[str, Any] = {
    "started_s": _NUMBER,
    "ended_s": (*_NUMBER, type(None)),
    "outcome": dict,
    "machine": dict,
    "schema_version": int,
}


class ManifestError(ValueError):
    """A manifest that is missing, damaged, or written by a newer version."""


@dataclass(frozen=True)
class Manifest:
    """``started_s`` and ``ended_s`` are wall clock seconds; ``ended_s`` is None while running. ``outcome`` names no fault."""

    run_id: str
    profile: str
    workload: str
    posture: str
    place: str
    started_s: float
    ended_s: float | None = None
    state: str = RunState.RUNNING.value
    outcome: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    code_version: str = ""
    schema_version: int = SCHEMA_VERSION


def start_manifest(paths: RunPaths, *, profile: str, workload: str, posture: str, place: str) -> Manifest:
    """Write the manifest of a run that begins now."""
    manifest = Manifest(
        run_id=paths.run_id,
        profile=profile,
        workload=workload,
        posture=posture,
        place=place,
        started_s=time.time(),
        machine=machine_facts(),
        code_version=code_version(),
    )
    save_manifest(paths, manifest)
    return manifest


def end_manifest(paths: RunPaths, state: RunState, outcome: dict[str, Any] | None = None) -> Manifest:
    """Write how a run ended; ``outcome`` is added to what is there. Raises ManifestError if it never began."""
    before = load_manifest(paths)
    manifest = replace(before, state=RunState(state).value, ended_s=time.time(), outcome={**before.outcome, **(outcome or {})})
    save_manifest(paths, manifest)
    return manifest


def save_manifest(paths: RunPaths, manifest: Manifest) -> None:
    """Replace the manifest atomically."""
    RunState(manifest.state)
    write_atomic(paths.manifest, (json.dumps(asdict(manifest), indent=2, allow_nan=False) + "\n").encode())


def load_manifest(paths: RunPaths) -> Manifest:
    """Read it back. Raises ManifestError with the reason."""
    try:
        return _checked(json.loads(paths.manifest.read_bytes()), paths.run_id)
    except ManifestError:
        raise
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise ManifestError(f"{paths.run_id}: manifest cannot be read: {type(error).__name__}: {error}") from error


def _checked(data: dict[str, Any], run_id: str) -> Manifest:
    version = data["schema_version"]
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        raise ManifestError(f"{run_id}: manifest of schema version {version!r}; this program knows {SCHEMA_VERSION}")
    known = {f.name for f in fields(Manifest)}
    manifest = Manifest(**{key: value for key, value in data.items() if key in known})
    RunState(manifest.state)
    if manifest.run_id != run_id:
        raise ManifestError(f"{run_id}: manifest of another run, {manifest.run_id!r}")
    for name, value in asdict(manifest).items():
        if not isinstance(value, _TYPES.get(name, str)):
            raise ManifestError(f"{run_id}: manifest's {name} is {value!r}")
    return manifest


def machine_facts() -> dict[str, Any]:
    """What the numbers of a run depend on: cores the process may use, memory, kernel, Python."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cores_count": len(os.sched_getaffinity(0)),
        "memory_bytes": pages,
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
    }


def code_version() -> str:
    """Commit of this source tree, with ``+`` when it holds changes; empty where git or its folder is not there."""
    root = Path(__file__).resolve().parent.parent
    git = ["git", "-C", str(root)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True)
        changed = subprocess.run(
            [*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return commit.stdout.strip() + ("+" if changed.stdout.strip() else "")
