"""Make a sealed case: neutral names, a shifted clock, one file per component, a manifest and a commitment, all read-only."""

from __future__ import annotations

import json
import os
import platform
import random
import re
import shutil
import sysconfig
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from diagnosis.sanitise import RULES_VERSION, Rewriting, sanitise_log
from diagnosis.topology import Topology, waits
from diagnosis.vocabulary import KINDS, STAGES
from storage.records import SCHEMA_VERSION, Role
from storage.seal import file_hashes

#: The case clock starts somewhere within a day of this moment; also the modification time of every file (1 January 2000).
EPOCH_S = 946_684_800
DAY_S = 86_400
_STAMP = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)\.\d{3} ")


@dataclass(frozen=True)
class CaseSource:
    """The raw side of a case: the job's folder, its logs and topology; ``strange`` words must not occur in evidence."""

    job: Path
    logs: Path
    topology: Topology
    strange: tuple[str, ...] = ()


def neutral_names(topology: Topology, draw: random.Random) -> tuple[dict[str, str], dict[str, str]]:
    """(component -> ``w-3fa1``, host -> ``n-04c2``): drawn, so that neither name nor order tells a rank."""
    components = draw.sample(range(0x10000), len(topology.components))
    places = sorted(set(topology.hosts.values()))
    hosts = draw.sample(range(0x10000), len(places))
    return (
        {name: f"w-{number:04x}" for name, number in zip(topology.components, components, strict=True)},
        {name: f"n-{number:04x}" for name, number in zip(places, hosts, strict=True)},
    )


def build_case(
    source: CaseSource,
    names: dict[str, str],
    hosts: dict[str, str],
    evidence: Path,
    commit: Callable[[Path], str],
    draw: random.Random,
) -> dict[str, Any]:
    """Write ``evidence`` and return its manifest. ``commit`` is given the written manifest and answers the commitment.

    Raises FileExistsError when the case exists: a case is sealed once. The folder appears by one rename, complete.
    """
    if evidence.exists():
        raise FileExistsError("this run is sealed already")
    building = evidence.with_name(f".{evidence.name}.building")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir()
    dropped = _write_logs(source, _rewriting(source, names, hosts, draw), building)
    manifest = _manifest(source.topology, names, hosts, building, dropped, f"{draw.getrandbits(128):032x}")
    path = building / "manifest.json"
    path.write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    (building / "commitment.txt").write_text(commit(path) + "\n")
    _freeze(building)
    building.rename(evidence)
    return manifest


def _rewriting(source: CaseSource, names: dict[str, str], hosts: dict[str, str], draw: random.Random) -> Rewriting:
    topology = source.topology
    start = draw.randrange(EPOCH_S, EPOCH_S + DAY_S)
    machine = platform.node()
    strange = (machine,) if len(machine) > 3 and machine not in (*topology.hosts.values(), "localhost") else ()
    return Rewriting(
        components=names,
        hosts=hosts,
        endpoints={place: f"{names[component]}:{port}" for place, (component, port) in topology.endpoints.items()},
        addresses={ip: names[component] for ip, component in topology.addresses.items()}
        | {ip: hosts[host] for ip, host in topology.host_addresses.items() if host in hosts},
        pids={pid: names[component] for pid, component in topology.pids.items()},
        roots=_roots(source.job),
        shift_s=start - _first_second(source),
        strange=source.strange + strange,
    )


def _roots(job: Path) -> tuple[tuple[str, str], ...]:
    """Path prefixes that may be rewritten, longest first: the job's folder, the program and its libraries."""
    places = {str(job.resolve()): "job/", str(job): "job/", str(Path(__file__).resolve().parent.parent): ""}
    places |= {sysconfig.get_path(kind): "" for kind in ("stdlib", "platstdlib", "purelib", "platlib")}
    return tuple(sorted(places.items(), key=lambda item: -len(item[0])))


def _first_second(source: CaseSource) -> int:
    """The earliest whole second in any log, seconds since the Unix epoch; 0 when no line has a time."""
    stamps = [stamp for name in source.topology.components for stamp in _stamps(_raw_lines(source, name))]
    return int(datetime.fromisoformat(min(stamps)).replace(tzinfo=UTC).timestamp()) if stamps else 0


def _stamps(lines: Iterable[str]) -> list[str]:
    return [match[1] for match in map(_STAMP.match, lines) if match]


def _raw_lines(source: CaseSource, component: str) -> list[str]:
    """The component's log; one that never wrote a line has an empty log, so that every case has the same set of files."""
    path = source.logs / f"{component}.log"
    # Split at line feeds alone: a log may hold other characters that Python takes for line ends.
    return path.read_bytes().decode("utf-8", "replace").rstrip("\n").split("\n") if path.exists() else []


def _write_logs(source: CaseSource, known: Rewriting, evidence: Path) -> Counter[str]:
    dropped: Counter[str] = Counter()
    for tier in ("t0", "t1"):
        (evidence / tier).mkdir()
    for component, neutral in known.components.items():
        lines, lost = sanitise_log(_raw_lines(source, component), component, known)
        dropped += lost
        tier = "t0" if source.topology.roles[component] == Role.CONTROLLER else "t1"
        (evidence / tier / f"{neutral}.log").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return dropped


def _manifest(
    topology: Topology, names: dict[str, str], hosts: dict[str, str], evidence: Path, dropped: Counter[str], case_id: str
) -> dict[str, Any]:
    files = file_hashes(evidence)
    links = sorted((names[src], names[dst], purpose) for src, dst, purpose in topology.links)
    roles = {names[name]: role for name, role in topology.roles.items()}
    places = {names[name]: hosts[host] for name, host in topology.hosts.items()}
    return {
        "schema_version": SCHEMA_VERSION,
        "case_id": case_id,
        "files": files,
        "tiers": {"T0": [path for path in files if path.startswith("t0/")], "T1": list(files)},
        "vocabulary": {"components": sorted(roles), "stages": list(STAGES), "kinds": list(KINDS)},
        "topology": {
            "components": {name: {"role": role, "host": places.get(name, "")} for name, role in roles.items()},
            "links": [{"src": src, "dst": dst, "purpose": purpose} for src, dst, purpose in links],
            "waits": [{"waiter": waiter, "awaited": awaited} for waiter, awaited in waits(roles, links)],
        },
        "sanitiser": {"rules_version": RULES_VERSION, "lines_dropped": dict(sorted(dropped.items()))},
        "clock": "all times are shifted by one whole number of seconds",
    }


def _freeze(evidence: Path) -> None:
    """Read-only, and one modification time for all: sizes and order of writing are no clue."""
    for path in (*sorted(evidence.rglob("*"), reverse=True), evidence):
        path.chmod(0o555 if path.is_dir() else 0o444)
        os.utime(path, (EPOCH_S, EPOCH_S))
