"""Who asked for what and what became of it: JSON lines, only ever appended to, on disk before anything is done.

When a file has grown to LIMIT_BYTES it is put aside under the next number; none is ever removed.
"""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

LIMIT_BYTES = 16 << 20


class Audit:
    """Safe to share between threads. A line is either whole or not there."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._turn = threading.Lock()
        self._file = self._open()

    def note(self, who: str, what: str, **fields: Any) -> None:
        """One line, durable when this returns. Raises OSError (a full disk): then what it tells of may not be done."""
        line = json.dumps({"wall_s": round(time.time(), 3), "who": who, "what": what, **fields}).encode() + b"\n"
        with self._turn:
            size = os.fstat(self._file).st_size
            if size > LIMIT_BYTES:
                size = self._put_aside()
            try:
                self._write(line)
            except OSError:
                os.ftruncate(self._file, size)
                raise

    def _write(self, line: bytes) -> None:
        if os.write(self._file, line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
        os.fsync(self._file)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def _put_aside(self) -> int:
        number = 1 + len(list(self._path.parent.glob(f"{self._path.stem}-*{self._path.suffix}")))
        self._path.rename(self._path.with_stem(f"{self._path.stem}-{number}"))
        os.close(self._file)
        self._file = self._open()
        return 0
