"""The latest sample of each series of a table that is being written: what is so now, for those who watch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from storage.encoding import SegmentError
from storage.folders import Folder, open_folder
from storage.reader import read_segment
from storage.schemas import METRICS
from storage.segments import Segment, segment_of

Sample = dict[str, Any]


def newest_samples(where: Folder | Path | str, writer: str, span_s: float) -> list[Sample]:
    """One row of METRICS per host, component and metric that ``writer`` has told in the last ``span_s`` seconds it wrote of.

    A series whose latest value was missed is there with None. Reads the newest segments alone; what cannot be read, or has just
    been merged, is left out: the next look will see it.
    """
    folder = open_folder(where)
    latest: dict[tuple[str, str, str], Sample] = {}
    until = -1.0
    for rows in _newest_first(folder, writer):
        until = max(until, (pc.max(rows["wall_s"]).as_py() or 0.0) - span_s)
        for row in rows.filter(pc.greater_equal(rows["wall_s"], until)).sort_by("wall_s").to_pylist():
            key = (row["host"], row["component"], row["metric"])
            if key not in latest or row["wall_s"] >= latest[key]["wall_s"]:
                latest[key] = row
        if (pc.min(rows["wall_s"]).as_py() or 0.0) <= until:
            break
    return list(latest.values())


def _newest_first(folder: Folder, writer: str) -> Iterator[pa.Table]:
    mine = [segment for segment in map(segment_of, folder.names()) if segment and segment.writer == writer]
    seen: Segment | None = None
    for segment in sorted(mine, key=lambda one: (one.last, one.generation), reverse=True):
        if seen and segment.last >= seen.first:
            continue
        try:
            rows = read_segment(folder, segment.name, METRICS)
        except SegmentError:
            continue
        if rows.num_rows:
            seen = segment
            yield rows
