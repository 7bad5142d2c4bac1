"""Make a sealed case: neutral names, a shifted clock, nested tiers, a manifest and a commitment, all read-only.

T0 is the controller's log, T1 every log, T2 has coarse metrics and healthy runs besides, T3 fine metrics of all of them.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from diagnosis.copying import CaseSource, Names, copy_run
from diagnosis.sanitise import RULES_VERSION
from diagnosis.series import COARSE_S
from diagnosis.topology import Topology, waits
from diagnosis.vocabulary import KINDS, STAGES, TIERS
from storage.records import SCHEMA_VERSION, Role
from storage.seal import file_hashes

#: The case clock starts somewhere within a day of this moment; also the modification time of every file (1 January 2000).
EPOCH_S = 946_684_800
DAY_S = 86_400


def neutral_names(topology: Topology, draw: random.Random) -> Names:
    """Names drawn so that neither name nor order tells a rank; in the order of the drawn names, in which files are made."""
    return Names(_drawn("w", topology.components, draw), _drawn("n", sorted(set(topology.hosts.values())), draw))


def _drawn(letter: str, own: Sequence[str], draw: random.Random) -> dict[str, str]:
    numbers = draw.sample(range(0x10000), len(own))
    return {name: f"{letter}-{number:04x}" for number, name in sorted(zip(numbers, own, strict=True))}


def build_case(
    source: CaseSource,
    healthy: Sequence[CaseSource],
    names: Names,
    evidence: Path,
    commit: Callable[[Path], str],
    draw: random.Random,
) -> dict[str, Any]:
    """Write ``evidence`` and return its manifest. ``commit`` is given the written manifest and answers the commitment.

    Each healthy run begins at the same moment of the case's clock as the case's own. Raises FileExistsError when the case
    exists: a case is sealed once. The folder appears by one rename, complete.
    """
    if evidence.exists():
        raise FileExistsError("this run is sealed already")
    building = evidence.with_name(f".{evidence.name}.building")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir()
    start_s = draw.randrange(EPOCH_S, EPOCH_S + DAY_S)
    counts = _copy_all(source, healthy, names, start_s, building)
    case_id = f"{draw.getrandbits(128):032x}"
    manifest = _manifest(source.topology, names, building, case_id)
    manifest["clock"] |= {"start_s": start_s}
    manifest["sanitiser"] |= counts
    path = building / "manifest.json"
    path.write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    (building / "commitment.txt").write_text(commit(path) + "\n")
    _freeze(building)
    building.rename(evidence)
    return manifest


def _copy_all(
    source: CaseSource, healthy: Sequence[CaseSource], names: Names, start_s: int, case: Path
) -> dict[str, dict[str, int]]:
    """Copy the case's run and the healthy ones; what was dropped of them, by reason."""
    own = [name for name, role in source.topology.roles.items() if role == Role.CONTROLLER]

    def log_path(component: str) -> Path:
        return case / ("t0" if component in own else "t1") / f"{names.components[component]}.log"

    dropped, left_out = copy_run(source, names, start_s, log_path, case / "t2/metrics", case / "t3/metrics")
    lost: Counter[str] = Counter()
    for number, run in enumerate(healthy, 1):
        low, high = case / f"t2/healthy/{number}", case / f"t3/healthy/{number}"

        def healthy_log(component: str, folder: Path = low) -> Path:
            return folder / "logs" / f"{names.components[component]}.log"

        lost += copy_run(run, names, start_s, healthy_log, low / "metrics", high / "metrics")[0]
    counts = {"lines_dropped": dropped, "healthy_lines_dropped": lost, "series_left_out": left_out}
    return {name: dict(sorted(count.items())) for name, count in counts.items()}


def _manifest(topology: Topology, names: Names, evidence: Path, case_id: str) -> dict[str, Any]:
    files = file_hashes(evidence)
    own, hosts = names.components, names.hosts
    links = sorted((own[src], own[dst], purpose) for src, dst, purpose in topology.links)
    roles = {own[name]: role for name, role in topology.roles.items()}
    places = {own[name]: hosts[host] for name, host in topology.hosts.items()}
    return {
        "schema_version": SCHEMA_VERSION,
        "case_id": case_id,
        "files": files,
        "tiers": {tier: [path for path in files if f"T{path[1]}" <= tier] for tier in TIERS},
        "vocabulary": {"components": sorted(roles), "stages": list(STAGES), "kinds": list(KINDS)},
        "topology": {
            "components": {name: {"role": role, "host": places.get(name, "")} for name, role in roles.items()},
            "links": [{"src": src, "dst": dst, "purpose": purpose} for src, dst, purpose in links],
            "waits": [{"waiter": waiter, "awaited": awaited} for waiter, awaited in waits(roles, links)],
        },
        "sanitiser": {"rules_version": RULES_VERSION},
        "clock": {"rule": "all times of a run are shifted by one whole number of seconds", "coarse_s": COARSE_S},
    }


def _freeze(evidence: Path) -> None:
    """Read-only, and one modification time for all: sizes and order of writing are no clue."""
    for path in (*sorted(evidence.rglob("*"), reverse=True), evidence):
        path.chmod(0o555 if path.is_dir() else 0o444)
        os.utime(path, (EPOCH_S, EPOCH_S))
