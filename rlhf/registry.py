"""A process of the job says who it is, once it listens."""

from __future__ import annotations

import json
import os
from pathlib import Path

from rlhf.links import job_dir, name_table, split_address
from rlhf.topology import role_and_rank
from storage.records import Registration, to_dict


def start_ticks(pid: int) -> int:
    """Start time of a process in clock ticks since boot (field 22 of its stat): pid and this never mean another process."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def register(component: str) -> Registration:
    """Write ``registry/<component>.json`` whole or not at all."""
    table = name_table()
    role, rank = role_and_rank(component)
    ports = {purpose: split_address(address)[1] for purpose, address in table["listen"].get(component, {}).items()}
    record = Registration(
        component=component,
        role=str(role),
        rank=rank,
        host=table["host"][component],
        pid=os.getpid(),
        start_ticks=start_ticks(os.getpid()),
        address=table["bind"][component],
        ports=ports,
        log=str(job_dir() / "logs" / f"{component}.log"),
    )
    folder = job_dir() / "registry"
    folder.mkdir(exist_ok=True)
    part = folder / f".{component}.part"
    part.write_text(json.dumps(to_dict(record)) + "\n")
    part.replace(folder / f"{component}.json")
    return record


def forget(component: str) -> None:
    """Remove what an earlier process of that name left behind."""
    (job_dir() / "registry" / f"{component}.json").unlink(missing_ok=True)


def registered(component: str) -> Registration | None:
    """The registration of a component, if it has written one."""
    path = job_dir() / "registry" / f"{component}.json"
    return Registration(**json.loads(path.read_text())) if path.exists() else None
