"""What a case tells without being understood: its shape, and which words stand in it at all."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path

#: What differs between any two runs: numbers, hexadecimal names, and the neutral names of components and hosts.
VARYING = re.compile(r"\b[wn]-[0-9a-f]{4}\b|\b[0-9a-f]{8,}\b|[-+]?\d[\d.,:]*(?:e[-+]?\d+)?")


def shape(case: Path) -> list[float]:
    """What a case tells without a line of it being read: files, times, modes, columns, counts; no sizes, which are impact."""
    manifest = json.loads((case / "manifest.json").read_text())
    paths = sorted(case.rglob("*"))
    files = [path for path in paths if path.is_file()]
    columns = [len(path.read_text().splitlines()) for path in files if path.suffix == ".jsonl"]
    names = [int(found, 16) for found in re.findall(r"w-([0-9a-f]{4})", " ".join(manifest["vocabulary"]["components"]))]
    inodes = [path.stat().st_ino for path in files]
    order = sum(a < b for a, b in pairwise(inodes))
    listed = len(json.dumps({**manifest, "files": sorted(manifest["files"])}))
    figures = [len(files), len(columns), max(columns), min(columns), listed, order, *names]
    return [float(figure) for figure in (*figures, manifest["clock"]["start_s"], *{path.stat().st_mtime for path in paths})]


def right_by_shape(shapes: list[list[float]], answers: list[str]) -> int:
    """How many answers the nearest other case (each figure scaled by its spread) gives away, one left out at a time."""
    spreads = [(max(column) - min(column)) or 1.0 for column in zip(*shapes, strict=True)]

    def distance(a: list[float], b: list[float]) -> float:
        return sum(((x - y) / spread) ** 2 for x, y, spread in zip(a, b, spreads, strict=True))

    right = 0
    for number, one in enumerate(shapes):
        others = [other for other in range(len(shapes)) if other != number]
        nearest = min(others, key=lambda other: distance(one, shapes[other]))
        right += answers[nearest] == answers[number]
    return right


def words(case: Path) -> set[str]:
    """Every path, log line and series of a case, with what differs between any two runs left out."""
    found = set()
    for path in (path for path in case.rglob("*") if path.is_file()):
        where = VARYING.sub("#", path.relative_to(case).as_posix())
        found.add(where)
        if path.suffix == ".log":
            found |= {f"{where}: {VARYING.sub('#', line)}" for line in path.read_text().splitlines()}
        elif path.suffix == ".jsonl":
            series = (json.loads(line) for line in path.read_text().splitlines())
            told = ({name: value for name, value in one.items() if not isinstance(value, list)} for one in series)
            found |= {f"{where}: {VARYING.sub('#', str(one))}" for one in told}
    return found
