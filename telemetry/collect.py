"""Collect a run: from the job's files and the history into the run's tables. Pure files to files; may be repeated."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from storage.jsonlines import read_json_lines
from storage.layout import RunPaths
from storage.schemas import TABLES
from storage.writer import TableWriter, remove_segments
from telemetry.application import stats_columns
from telemetry.events import Row, split_history, stage_columns
from telemetry.loglines import log_columns, parse_log
from telemetry.registry import RegistryWatch

Batch = Mapping[str, Sequence[Any]] | Sequence[Sequence[Any]]

#: Segments written here carry this name; the sampler's carry its own, so that a repeated collection replaces only these.
WRITER = "collected"
#: Rows of a log held at a time.
_LOG_ROWS = 50_000


def collect_run(paths: RunPaths, plan: dict[str, Any], history: list[dict[str, Any]]) -> dict[str, Any]:
    """Write events, injections, logs and the job's metrics of a run; rows already collected are replaced.

    Plan and history are given by the caller, who is a reader of truth. Returns ``{"rows": {table: count}, "problems": [...]}``;
    a damaged or strange file is named in ``problems`` and left out. Raises TableWriteError on a full disk.
    """
    events, injections, problems = split_history(history, plan)
    rows = {
        "events": _store(paths, "events", [events]),
        "injections": _store(paths, "injections", [injections]),
        "metrics": _store(paths, "metrics", _metrics(paths, events, problems)),
        "logs": _store(paths, "logs", _logs(paths, problems)),
    }
    return {"rows": rows, "problems": problems}


def _store(paths: RunPaths, table: str, batches: Iterable[Batch]) -> int:
    folder, count = paths.table(table), 0
    remove_segments(folder, WRITER)
    with TableWriter(folder, TABLES[table], flush_s=3600.0, writer=WRITER) as writer:
        for batch in batches:
            count += writer.append(batch)
    return count


def _metrics(paths: RunPaths, events: list[Row], problems: list[str]) -> Iterator[dict[str, list[Any]]]:
    """What the job told of itself, then what follows from what it announced."""
    hosts = host_of_components(paths.registry)
    for path in _plain_files(paths.stats, ".jsonl", problems):
        records, torn = read_json_lines(path)
        columns, strange = stats_columns(path.stem, hosts.get(path.stem, ""), records, f"stats/{path.name}")
        problems += [f"stats/{sentence}" for sentence in torn] + strange
        yield columns
    yield stage_columns(events, hosts)


def _logs(paths: RunPaths, problems: list[str]) -> Iterator[dict[str, list[object]]]:
    for path in _plain_files(paths.logs, ".log", problems):
        try:
            with path.open("rb") as file:
                rows = parse_log(file)
                while batch := list(islice(rows, _LOG_ROWS)):
                    yield log_columns(path.stem, batch)
        except OSError as error:
            problems.append(f"logs/{path.name}: {error.strerror or error}")


def _plain_files(folder: Path, suffix: str, problems: list[str]) -> Iterator[Path]:
    for path in sorted(folder.glob("*")):
        if path.is_symlink() or not path.is_file() or path.suffix != suffix:
            problems.append(f"{folder.name}/{path.name}: foreign file, left out")
        else:
            yield path


def host_of_components(registry: Path) -> dict[str, str]:
    """Component -> host, from the registration files that can be read."""
    return {name: entry.host for name, entry in (RegistryWatch(registry).changed() or {}).items()}
