"""What a sampler is told to look at, and how often."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from telemetry.arena import ArenaSource
from telemetry.clock import ClockSource
from telemetry.disk import DiskSource
from telemetry.gpu import GpuSource
from telemetry.groups import GroupSource
from telemetry.interfaces import InterfaceSource
from telemetry.kernel import KernelSource
from telemetry.links import LinkSource
from telemetry.nametable import NameTable
from telemetry.nfs import NfsSource
from telemetry.ping import PingSource
from telemetry.ray_node import RayNodeSource
from telemetry.sources import Source
from telemetry.sync import SyncSource

SOURCES: dict[str, Callable[[SamplerSpec], Source]] = {
    "links": lambda spec: LinkSource(NameTable(spec.addresses)),
    "ping": lambda spec: PingSource(NameTable(spec.addresses)),
    "interfaces": lambda _: InterfaceSource(),
    "disk": lambda spec: DiskSource(spec.folders),
    "groups": lambda _: GroupSource(),
    "nfs": lambda _: NfsSource(),
    "sync": lambda spec: SyncSource(spec.checkpoints, spec.sync_every_s),
    "clock": lambda spec: ClockSource(spec.clocks, spec.slow_every_s),
    "ray": lambda spec: RayNodeSource(spec.ray, spec.slow_every_s),
    "gpu": lambda _: GpuSource(),
    "kernel": lambda _: KernelSource(),
    "arena": lambda spec: ArenaSource(spec.registry.parent / "arena"),
}
"""What can be looked at besides processes and hosts. Of what this machine does not have, that alone is told."""


@dataclass(frozen=True)
class SamplerSpec:
    """What to sample. ``out`` is the metrics table's folder; ``stop`` a file whose appearance ends the sampler (or None).

    Processes, hosts and their networks always; of `SOURCES` those that are named. ``addresses`` is the name table, for the
    links; ``folders`` are those of whose disks is told, ``checkpoints`` the one whose disk is written to; ``clocks`` are the
    hosts whose clocks are asked, and where; ``ray`` folder and address of the node of Ray on each host. ``slow_every_s`` is
    the beat of what is dear to look at, ``sync_every_s`` that of the writes to the disk with the checkpoints.
    """

    registry: Path
    out: Path
    hz: float = 2.0
    slow_every_s: float = 10.0
    sync_every_s: float = 10.0
    stop: Path | None = None
    sources: tuple[str, ...] = ()
    addresses: Path = Path("addresses.json")
    folders: tuple[Path, ...] = ()
    checkpoints: Path | None = None
    clocks: dict[str, str] = field(default_factory=dict)
    ray: dict[str, tuple[Path, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        strange = sorted(set(self.sources) - set(SOURCES))
        if strange:
            raise ValueError(f"no source {', '.join(strange)}; there are: {', '.join(SOURCES)}")
        if not 0.01 <= self.hz <= 100:
            raise ValueError(f"hz is {self.hz}; allowed: 0.01 to 100")


def load_spec(path: Path) -> SamplerSpec:
    """Read the fields of `SamplerSpec` as a JSON object. Raises ValueError or TypeError naming what is wrong."""
    fields: dict[str, Any] = json.loads(path.read_text())
    for name in ("registry", "out", "stop", "addresses", "checkpoints"):
        if fields.get(name):
            fields[name] = Path(fields[name])
    fields["folders"] = tuple(Path(folder) for folder in fields.get("folders", ()))
    fields["ray"] = {host: (Path(folder), address) for host, (folder, address) in fields.get("ray", {}).items()}
    fields["sources"] = tuple(fields.get("sources", ()))
    return SamplerSpec(**fields)
