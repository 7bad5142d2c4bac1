"""Retention: runs that are finished are made small, and those past keeping go. A run under way is never touched."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from storage.archive import remove_tree
from storage.catalogue import RunRow, list_runs
from storage.layout import run_paths, runs_dir
from storage.manifest import RunState
from storage.merging import compact_table
from storage.schemas import TABLES

_DAY_S = 86400.0
#: What an interrupted import or removal leaves; hidden, so that no list shows it.
_LEFTOVERS = (".import-*", ".gone-*")


@dataclass(frozen=True)
class Kept:
    """What became of one run: ``compacted``, ``removed``, ``running`` or ``failed``; bytes of its tables, or of all of it."""

    run_id: str
    done: str
    bytes_before: int
    bytes_after: int
    problems: tuple[str, ...] = ()


def past_keeping(keep: str, now_s: float | None = None, runs: Sequence[RunRow] | None = None) -> list[str]:
    """The finished runs that ``keep`` does not keep: ``200`` the newest so many, ``30d`` those begun in the last so many days.

    A run whose manifest cannot be read has no age: it is kept, and named by `list`. ValueError for another text.
    """
    told = re.fullmatch(r"([0-9]{1,9})(d?)", keep)
    if not told:
        raise ValueError(f"keep is {keep!r}; a number of runs (200) or of days (30d)")
    dated = [row for row in (list_runs() if runs is None else runs) if row.started_s is not None]
    if told[2]:
        since_s = (time.time() if now_s is None else now_s) - int(told[1]) * _DAY_S
        old = [row for row in dated if (row.started_s or 0.0) < since_s]
    else:
        newest_first = sorted(dated, key=lambda row: (row.started_s or 0.0, row.run_id), reverse=True)
        old = newest_first[int(told[1]) :]
    return sorted(row.run_id for row in old if row.state != RunState.RUNNING)


def collect_garbage(keep: str = "", *, dry_run: bool = False) -> list[Kept]:
    """Remove what ``keep`` does not keep (empty: nothing), compact every other finished run, and tidy what kills left."""
    runs = list_runs()
    gone = set(past_keeping(keep, runs=runs)) if keep else set()
    if not dry_run:
        for pattern in _LEFTOVERS:
            for path in runs_dir().glob(pattern):
                remove_tree(path)
    return [_remove(row, dry_run=dry_run) if row.run_id in gone else _compact(row, dry_run=dry_run) for row in runs]


def _remove(row: RunRow, *, dry_run: bool) -> Kept:
    root = run_paths(row.run_id).root
    before = size_of(root)
    if not dry_run:
        # Hidden first: killed from here on, the run is gone from every list, and the next call takes the rest away.
        hidden = root.with_name(f".gone-{row.run_id}")
        root.rename(hidden)
        remove_tree(hidden)
    return Kept(row.run_id, "removed", before, 0)


def _compact(row: RunRow, *, dry_run: bool) -> Kept:
    tables = run_paths(row.run_id).root / "tables"
    before = size_of(tables)
    if row.state == RunState.RUNNING or dry_run:
        return Kept(row.run_id, "running" if row.state == RunState.RUNNING else "compacted", before, before)
    problems: list[str] = []
    try:
        for name, schema in TABLES.items():
            problems += compact_table(tables / name, schema)
    except (OSError, ValueError) as error:
        return Kept(row.run_id, "failed", before, size_of(tables), (*problems, str(error)))
    return Kept(row.run_id, "compacted", before, size_of(tables), tuple(problems))


def size_of(folder: Path) -> int:
    """Bytes of all plain files below a folder."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
