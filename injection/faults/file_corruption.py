"""A file of the job is damaged in place: cut short, bytes turned over, or its tail never arrived.

The bytes it had are in the undo record; they come back only into the same file with the same damage. A file that the job has
written anew since is left alone.
"""

from __future__ import annotations

import base64
import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from injection.fault import Ask, Context, Measurement, RefusedError, Undo

#: What is damaged now by this process: the file's inode, begin and end. Damage upon damage could not be undone in any order.
_DAMAGED: set[tuple[int, int, float]] = set()
#: The most that the undo record keeps.
KEPT_BYTES = 4 << 20


@dataclass(frozen=True)
class Params:
    """`how`, from `at_percent` of the file's size on: truncate: cut there; flip: every bit of `size_bytes` bytes is the other.

    torn: zeros from there to the end, as after a crash in which the new size was written and the data were not.
    """

    how: Literal["truncate", "flip", "torn"]
    at_percent: Annotated[float, Field(ge=0, lt=100, allow_inf_nan=False)] = 50.0
    size_bytes: Annotated[int, Field(ge=1, le=KEPT_BYTES)] = 1


class FileCorruption:
    """One region of one file; which file a link means is settled when the fault fires."""

    parameters = Params

    def __init__(self, ctx: Context, params: Params) -> None:
        self._ctx = ctx
        self._params = params
        self._path = ctx.path().path
        self._undo: Undo = {}

    def arm(self) -> None:
        """Nothing: the file may not be there yet."""

    def undo(self) -> Undo:
        """Which file, which region, what it held and what it will hold; empty while there is no such file.

        Damage lasts: neither the end of the place nor a restart of the machine takes it away.
        """
        if not self._path.is_file():
            return {}
        path = self._path.resolve()
        if not path.is_relative_to(self._ctx.job.resolve()):
            raise RefusedError(f"{self._path} leads out of the job's folder")
        about = path.stat()
        offset, length = _region(self._params, about.st_size)
        if length > KEPT_BYTES:
            raise RefusedError(f"{length} bytes of {self._path} would be lost; at most {KEPT_BYTES} are kept for undoing")
        held = _read(path, offset, length)
        after = _damaged(self._params.how, held)
        size = offset if self._params.how == "truncate" else about.st_size
        where = {"path": str(path), "inode": about.st_ino, "offset": offset, "length": length, "damaged_size_bytes": size}
        content = {"held": base64.b64encode(held).decode(), "sha256": _sum(held), "damaged_sha256": _sum(after)}
        self._undo = {"lasts": True, **where, **content}
        return self._undo

    def apply(self) -> dict[str, Any]:
        """Write the damage. Raises RefusedError where there is nothing to damage."""
        undo = self._undo
        if not undo or not _is_there(undo):
            raise RefusedError(f"there is no file {self._path}")
        if undo["sha256"] == undo["damaged_sha256"]:
            raise RefusedError(f"{self._path} holds there what the damage would leave: nothing would change")
        inode, begin, end = _span(undo)
        if any(inode == other and begin < its_end and its_begin < end for other, its_begin, its_end in _DAMAGED):
            raise RefusedError(f"{self._path} is damaged there already")
        _DAMAGED.add(_span(undo))
        with Path(undo["path"]).open("r+b") as file:
            file.seek(undo["offset"])
            file.write(_damaged(self._params.how, base64.b64decode(undo["held"])))
            file.truncate(undo["damaged_size_bytes"])
        return {"size_bytes": undo["damaged_size_bytes"], "offset": undo["offset"], "length_bytes": undo["length"]}

    def verify(self) -> Measurement:
        """Another process reads the region: it is not what it was. That the job has written the file anew since is told."""
        found = self._ctx.ask("file_bytes", _where(self._undo))
        anew = found["inode"] != self._undo["inode"]
        hit = found["region_sha256"] == self._undo["damaged_sha256"] and found["size_bytes"] == self._undo["damaged_size_bytes"]
        return Measurement(ok=hit or anew, probe="content of the file", measured={**found, "written_anew": anew})

    @staticmethod
    def revert(undo: Undo) -> None:
        """Put the bytes back, if it is still that file and still that damage."""
        if undo:
            _DAMAGED.discard(_span(undo))
        if not undo or not _is_there(undo):
            return
        path = Path(undo["path"])
        now = _sum(_read(path, undo["offset"], undo["length"]))
        if now == undo["damaged_sha256"] and path.stat().st_size == undo["damaged_size_bytes"]:
            with path.open("r+b") as file:
                file.seek(undo["offset"])
                file.write(base64.b64decode(undo["held"]))

    @staticmethod
    def gone(undo: Undo, ask: Ask) -> Measurement:
        """Another process reads what was there before, or something that the job has written since."""
        if not undo:
            return Measurement(ok=True, probe="content of the file", measured={"exists": False})
        found = ask("file_bytes", _where(undo))
        anew = not found["exists"] or found["inode"] != undo["inode"]
        free = anew or found["region_sha256"] != undo["damaged_sha256"] or found["size_bytes"] != undo["damaged_size_bytes"]
        return Measurement(ok=free, probe="content of the file", measured=found)


def _span(undo: Undo) -> tuple[int, int, float]:
    """Inode, begin and end of what no other damage may touch; a file cut short is another everywhere."""
    if undo["damaged_size_bytes"] == undo["offset"]:
        return undo["inode"], 0, math.inf
    return undo["inode"], undo["offset"], undo["offset"] + undo["length"]


def _region(params: Params, size: int) -> tuple[int, int]:
    """Offset and length of what is lost, within a file of `size` bytes."""
    if params.how == "flip":
        length = min(params.size_bytes, size)
        return min(int(size * params.at_percent / 100), size - length), length
    offset = int(size * params.at_percent / 100)
    return offset, size - offset


def _damaged(how: str, held: bytes) -> bytes:
    """What stands in place of `held`."""
    if how == "truncate":
        return b""
    return bytes(len(held)) if how == "torn" else bytes(byte ^ 0xFF for byte in held)


def _read(path: Path, offset: int, length: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(length)


def _sum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _is_there(undo: Undo) -> bool:
    path = Path(undo["path"])
    return path.is_file() and path.stat().st_ino == undo["inode"]


def _where(undo: Undo) -> dict[str, Any]:
    return {"path": undo["path"], "offset": undo["offset"], "length": undo["length"]}
