"""Where the files of a table lie: a local folder, or a prefix of an object store given by URI (``s3://bucket/path?...``).

Both promise the same: `write` makes a file visible whole or not at all, and `names` tells every file that was there for all of
the call. A URI is what ``pyarrow.fs.FileSystem.from_uri`` takes; credentials come from the environment, as the store's own
tools take them.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import pyarrow as pa
from pyarrow import fs

from storage.atomic import write_atomic


class Folder(Protocol):
    """A flat folder of files."""

    @property
    def name(self) -> str:
        """Its last part: the table's name."""

    def names(self) -> list[str]:
        """The files that are not hidden, sorted. A folder that is not there is empty."""

    def read(self, name: str) -> bytes:
        """All bytes of a plain file. FileNotFoundError when it has gone; OSError also for what is no plain file."""

    def write(self, name: str, data: bytes | memoryview | pa.Buffer) -> None:
        """Make the file durable and visible at once. OSError leaves nothing visible."""

    def remove(self, name: str) -> None:
        """Take a file away; one that is not there is no error."""

    def remove_unfinished(self) -> None:
        """Take away what killed writers left half written. Only where nobody writes."""


class LocalFolder:
    """A folder of this machine."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name

    def names(self) -> list[str]:
        """While files are merged and removed, one listing may see neither the old ones nor the new: look until two agree."""
        before, now = None, self._listed()
        while before != now:
            before, now = now, self._listed()
        return now

    def _listed(self) -> list[str]:
        try:
            return sorted(path.name for path in self.path.iterdir() if not path.name.startswith("."))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def read(self, name: str) -> bytes:
        """O_NONBLOCK and no link followed: a pipe or a device in the folder must not hold the reader up."""
        handle = os.open(self.path / name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        with open(handle, "rb") as file:  # noqa: PTH123 - needs the flags
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise OSError("not a plain file")
            return file.read()

    def write(self, name: str, data: bytes | memoryview | pa.Buffer) -> None:
        """Written under a hidden name, fsynced, renamed, and the folder fsynced."""
        try:
            if not self.path.is_dir():
                self.path.mkdir(parents=True, exist_ok=True)
            write_atomic(self.path / name, data)
        except OSError:
            # The caller keeps the rows and writes them again: whatever of them is visible by now would count twice.
            (self.path / name).unlink(missing_ok=True)
            raise

    def remove(self, name: str) -> None:
        """Unlink it."""
        (self.path / name).unlink(missing_ok=True)

    def remove_unfinished(self) -> None:
        """The hidden files of `write`."""
        for path in self.path.glob(".*.tmp"):
            path.unlink(missing_ok=True)


class StoreFolder:
    """A prefix of an object store: an object is there when its upload is complete, and not before."""

    def __init__(self, uri: str) -> None:
        try:
            self._store, self._path = fs.FileSystem.from_uri(uri)
        except (OSError, ValueError) as error:
            raise ValueError(f"not a place to store tables: {uri!r}: {error}") from error
        self._path = self._path.rstrip("/")
        self.name = self._path.rpartition("/")[2]

    def names(self) -> list[str]:
        """One listing: object stores answer with what was there at one instant, page by page."""
        found = self._store.get_file_info(fs.FileSelector(self._path, allow_not_found=True))
        return sorted(one.base_name for one in found if not one.base_name.startswith(".") and one.type == fs.FileType.File)

    def read(self, name: str) -> bytes:
        """All bytes of an object."""
        with self._store.open_input_stream(f"{self._path}/{name}") as stream:
            return bytes(stream.read())

    def write(self, name: str, data: bytes | memoryview | pa.Buffer) -> None:
        """One upload; what is torn by a kill of an upload in parts is never completed, hence never seen."""
        try:
            with self._store.open_output_stream(f"{self._path}/{name}") as stream:
                stream.write(_arrows_own(data))
        except OSError:
            self.remove(name)
            raise

    def remove(self, name: str) -> None:
        """Delete the object."""
        with suppress(FileNotFoundError):
            self._store.delete_file(f"{self._path}/{name}")

    def remove_unfinished(self) -> None:
        """Nothing: an upload that was not completed is no object."""


def _arrows_own(data: bytes | memoryview | pa.Buffer) -> pa.Buffer:
    """Bytes that a thread of Arrow's may let go of late: of Python's, that would want an interpreter that may have ended."""
    if isinstance(data, pa.Buffer):
        return data
    own = pa.BufferOutputStream()
    own.write(data)
    return own.getvalue()


def open_folder(where: Folder | Path | str) -> Folder:
    """The folder of a path or a URI. ValueError for a URI of a kind that is not known; nothing is created."""
    if isinstance(where, Path):
        return LocalFolder(where)
    if isinstance(where, str):
        return StoreFolder(where) if "://" in where else LocalFolder(Path(where))
    return where
