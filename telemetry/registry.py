"""Watch the job's registration files: who is there, and who has been replaced."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger("sampler")

#: Two renames within one clock tick of the file system leave one folder time; look again until it is older than this.
_SETTLED_NS = 1_000_000_000


@dataclass(frozen=True)
class Registered:
    """What the sampler needs of a registration."""

    component: str
    host: str
    pid: int
    start_ticks: int


class RegistryWatch:
    """Reads the registry when its folder has changed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen_ns = -1
        self._told: set[str] = set()

    def changed(self) -> dict[str, Registered] | None:
        """All registrations by component if they may have changed since the last call, else None. Not there yet = empty."""
        try:
            stamp = self._folder.stat().st_mtime_ns
        except FileNotFoundError:
            return {}
        if stamp == self._seen_ns:
            return None
        # A folder touched just now is read again next time as well.
        self._seen_ns = stamp if time.time_ns() - stamp > _SETTLED_NS else -1
        entries = (self._read(path) for path in self._folder.glob("*.json") if not path.name.startswith("."))
        return {entry.component: entry for entry in entries if entry}

    def _read(self, path: Path) -> Registered | None:
        try:
            data = json.loads(path.read_bytes())
            return Registered(str(data["component"]), str(data["host"]), int(data["pid"]), int(data["start_ticks"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            if path.name not in self._told:
                logger.warning("%s is not a registration: %s", path.name, error)
                self._told.add(path.name)
            return None
