"""The write-ahead record of every fault that is, or may be, in force: enough to undo it without the process that made it.

One JSON file a fault, durable (file and folder fsynced) before anything is touched. Undoing is legal from every state,
because a process may die between any two lines of code.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from injection import procfs


class State(StrEnum):
    """Where a fault is in its life."""

    PLANNED = "planned"
    APPLYING = "applying"
    APPLIED = "applied"
    VERIFIED = "verified"
    REVERTING = "reverting"
    REVERTED = "reverted"
    STUCK = "stuck"


@dataclass(frozen=True)
class Record:
    """One fault. `undo` holds prior values and identities; pids count in the PID namespace with inode `pid_namespace`.

    `lease_until_s` is in seconds of CLOCK_BOOTTIME, which counts through suspend, as of the last durable write of the record.
    """

    fault_id: str
    run_id: str
    kind: str
    backend: str
    state: State
    undo: dict[str, Any]
    boot_id: str
    pid_namespace: int
    net_namespace: int
    injector_pid: int
    injector_start_ticks: int
    lease_until_s: float
    reason: str = ""

    @property
    def name(self) -> str:
        """The record's file name."""
        return f"{self.run_id}.{self.fault_id}.json"


def boottime_s() -> float:
    """Seconds since boot, suspend included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def new_record(run_id: str, fault_id: str, kind: str, backend: str, lease_s: float) -> Record:
    """A planned record of this process, with nothing to undo yet."""
    me = procfs.identity(os.getpid())
    return Record(
        fault_id=fault_id,
        run_id=run_id,
        kind=kind,
        backend=backend,
        state=State.PLANNED,
        undo={},
        boot_id=procfs.boot_id(),
        pid_namespace=procfs.namespace_inode("self", "pid"),
        net_namespace=procfs.namespace_inode("self", "net"),
        injector_pid=me.pid,
        injector_start_ticks=me.start_ticks,
        lease_until_s=boottime_s() + lease_s,
    )


def write(folder: Path, record: Record) -> None:
    """Make the record durable: written whole or not at all, and still there after a power cut."""
    final = folder / record.name
    temporary = final.with_suffix(".tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:  # a full disk may take a part: a file object goes on until it is refused
            file.write(json.dumps(asdict(record)).encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    temporary.rename(final)
    _sync_folder(folder)


def advance(folder: Path, record: Record, state: State, reason: str = "") -> Record:
    """The record in its next state, durable."""
    moved = replace(record, state=state, reason=reason)
    write(folder, moved)
    return moved


def stamp(folder: Path, record: Record) -> tuple[int, int]:
    """Tells one writing of the record from another, in microseconds: inode and time. (0, 0) where it is not there."""
    try:
        found = (folder / record.name).stat()
    except FileNotFoundError:
        return 0, 0
    return found.st_ino, found.st_mtime_ns


def read(path: Path) -> Record:
    """A record back from its file. Raises ValueError naming the file where it cannot be read."""
    try:
        data = json.loads(path.read_text())
        return Record(**{**data, "state": State(data["state"])})
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is not a fault record: {error}") from error


def state_of(folder: Path, record: Record) -> State | None:
    """How far a record is on disk, whoever wrote it last; None where it has been forgotten."""
    with suppress(FileNotFoundError):
        return read(folder / record.name).state
    return None


def records(folder: Path, run_id: str | None = None) -> Iterator[Record]:
    """All records of a folder (of one run, if told), by name. One that is forgotten meanwhile is left out."""
    for path in sorted(folder.glob(f"{run_id}.*.json" if run_id else "*.json")):
        with suppress(FileNotFoundError):
            yield read(path)


def forget(folder: Path, record: Record) -> None:
    """Remove a record with nothing left to undo."""
    (folder / record.name).unlink(missing_ok=True)
    _sync_folder(folder)


def renew_lease(folder: Path, run_id: str, lease_s: float) -> None:
    """Tell the watchdog that the injector of this run is alive for `lease_s` more seconds."""
    path = lease_file(folder, run_id)
    temporary = path.with_suffix(".lease-new")
    temporary.write_text(f"{boottime_s() + lease_s:.6f}")
    temporary.rename(path)


def lease_left_s(folder: Path, run_id: str) -> float | None:
    """Seconds left of the run's lease (negative: lapsed); None before the first renewal."""
    try:
        return float(lease_file(folder, run_id).read_text()) - boottime_s()
    except FileNotFoundError:
        return None


def lease_file(folder: Path, run_id: str) -> Path:
    """Where the lease of a run is written."""
    return folder / f"{run_id}.lease"


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
