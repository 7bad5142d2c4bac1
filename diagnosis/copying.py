"""Copy one run's logs and metrics to a case: neutral names, the case's clock, the same set of files whatever the run left."""

from __future__ import annotations

import platform
import re
import sysconfig
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from diagnosis.sanitise import Rewriting, sanitise_log
from diagnosis.series import coarse, read_series, write_series
from diagnosis.topology import Topology

_STAMP = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)\.\d{3} ")
#: Path prefixes of a program and its libraries wherever they lay when the run was made; what follows is the module's own.
_PROGRAM = r"(?:/[^/\s\"':]+)+/(?=rlhf/[\w/]+\.py\b)"
_LIBRARY = r"(?:/[^/\s\"':]+)+/python3\.\d+/(?:(?:site|dist)-packages/)?(?=[\w./]+\.py\b)"


@dataclass(frozen=True)
class CaseSource:
    """The raw side of one run: the job's folder, its logs, its topology and its metric rows.

    ``strange`` words must not occur in evidence; ``run_id`` names the folder in which the job's own lay when it ran.
    """

    job: Path
    logs: Path
    topology: Topology
    strange: tuple[str, ...] = ()
    run_id: str = ""
    metrics: Iterable[dict[str, Any]] = field(default=())


@dataclass(frozen=True)
class Names:
    """The case's names: component -> ``w-3fa1``, host -> ``n-04c2``."""

    components: Mapping[str, str]
    hosts: Mapping[str, str]


def copy_run(
    source: CaseSource, names: Names, start_s: int, log_path: Callable[[str], Path], coarse_at: Path, fine_at: Path
) -> tuple[Counter[str], Counter[str]]:
    """Write a run so that its first second is ``start_s``: each component's log at ``log_path(component)``, its metrics.

    Returns how many log lines were dropped and how many series were left out, by reason.
    """
    begun_s = _first_second(source)
    known = _rewriting(source, names, start_s - begun_s)
    dropped: Counter[str] = Counter()
    for component in names.components:
        lines, lost = sanitise_log(_raw_lines(source, component), component, known)
        dropped += lost
        path = log_path(component)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    series, left_out = read_series(source.metrics, names.components, names.hosts, begun_s)
    for folder, told in ((coarse_at, coarse(series)), (fine_at, series)):
        write_series(told, folder, names.components.values(), names.hosts.values())
    return dropped, left_out


def _rewriting(source: CaseSource, names: Names, shift_s: int) -> Rewriting:
    topology, own = source.topology, names.components
    machine = platform.node()
    strange = (machine,) if len(machine) > 3 and machine not in (*topology.hosts.values(), "localhost") else ()
    return Rewriting(
        components=dict(own),
        hosts=dict(names.hosts),
        endpoints={place: f"{own[component]}:{port}" for place, (component, port) in topology.endpoints.items()},
        addresses={ip: own[component] for ip, component in topology.addresses.items()}
        | {ip: names.hosts[host] for ip, host in topology.host_addresses.items() if host in names.hosts},
        pids={pid: own[component] for pid, component in topology.pids.items()},
        roots=_roots(source),
        shift_s=shift_s,
        strange=source.strange + strange,
    )


def _roots(source: CaseSource) -> tuple[tuple[re.Pattern[str], str], ...]:
    """Path prefixes that may be rewritten: the job's folder, the program and its libraries, of this or another checkout.

    A stored run may have been made elsewhere, and moved since: its own id finds the job's folder wherever that lay.
    """
    exact = {str(source.job.resolve()): "job/", str(source.job): "job/", str(Path(__file__).resolve().parent.parent): ""}
    exact |= {sysconfig.get_path(kind): "" for kind in ("stdlib", "platstdlib", "purelib", "platlib")}
    ordered = sorted(exact.items(), key=lambda item: -len(item[0]))
    roots = [(re.compile(rf"{re.escape(prefix)}(?=/|\b)/?"), substitute) for prefix, substitute in ordered]
    if source.run_id:
        roots.append((re.compile(rf"(?:/[^/\s\"':]+)+/{re.escape(source.run_id)}/job(?=/|\b)/?"), "job/"))
    return (*roots, (re.compile(_PROGRAM), ""), (re.compile(_LIBRARY), ""))


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
