"""Read JSON lines written by a process that may have been killed while writing."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

#: A longer line is not ours; reading it would only cost memory.
MAX_LINE_BYTES = 1 << 20


def read_json_lines(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The objects of ``path`` in order, and one sentence for each line that is none (torn, binary, too long, not an object)."""
    rows: list[dict[str, Any]] = []
    problems: list[str] = []
    try:
        file = path.open("rb")
    except OSError as error:
        return [], [f"{path.name}: {error.strerror or error}"]
    with file:
        for number, raw in enumerate(file, start=1):
            try:
                rows.append(_parse(raw))
            except (ValueError, RecursionError) as error:
                problems.append(f"{path.name}:{number}: {error}")
    return rows, problems


class JsonTail:
    """The objects added to a file of JSON lines since the look before. What is no object, or not whole yet, is passed over."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_bytes = 0

    def added(self) -> list[dict[str, Any]]:
        """Those that are new; none while there is no file."""
        rows: list[dict[str, Any]] = []
        with suppress(FileNotFoundError), self._path.open("rb") as file:
            file.seek(self._read_bytes)
            for raw in file:
                if not raw.endswith(b"\n"):
                    break
                self._read_bytes += len(raw)
                with suppress(ValueError, RecursionError):
                    rows.append(_parse(raw))
        return rows


def _parse(raw: bytes) -> dict[str, Any]:
    if len(raw) > MAX_LINE_BYTES:
        raise ValueError(f"a line of {len(raw)} bytes")
    if not raw.endswith(b"\n"):
        raise ValueError("torn line (no end of line)")
    value = json.loads(raw)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - wrong data, not a wrong call
    return value
