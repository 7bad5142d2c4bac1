"""The job's disk is slow: others write to it, or what the target may write is limited, or it does not answer at all."""

from __future__ import annotations

import os
import secrets
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from injection import strays, throttle
from injection.cgroup import Group
from injection.child import Child, end
from injection.disk import own_disk
from injection.fault import Ask, Context, Measurement, RefusedError, StuckError, Undo
from injection.virtual.loop import SOCKET_NAME

#: Achieved against asked: a full disk may be slower than what others want to write.
LEAST_PART = 0.5
MOST_PART = 1.3
#: How long the probe counts bytes, and how long it waits for a write that must not come back.
WINDOW_S = 1.0
HANG_S = 0.5
ANSWER_S = 10.0


@dataclass(frozen=True)
class Params:
    """`how`: contend: others write `bytes_per_s` in blocks of `block_bytes`, each made durable (`sync`: yes) or not.

    throttle: the target's control group may write `bytes_per_s` to this disk; hang: whoever writes waits until it is over.
    """

    how: Literal["contend", "throttle", "hang"]
    bytes_per_s: Annotated[float, Field(ge=0, le=1e11, allow_inf_nan=False)] = 0.0
    block_bytes: Annotated[int, Field(ge=512, le=64 << 20)] = 65536
    sync: Literal["yes", "no"] = "yes"

    def __post_init__(self) -> None:
        if (self.how == "hang") != (self.bytes_per_s == 0):
            raise ValueError("bytes_per_s: needed for contend and throttle, and without meaning for hang")


class IoContention:
    """One way of it; needs the disk to be a device (a tmpfs has none)."""

    parameters = Params

    def __init__(self, ctx: Context, params: Params) -> None:
        self._ctx = ctx
        self._params = params
        self._target = ctx.path()
        self._device = ""
        self._child: Child | None = None
        self._group: Group | None = None
        self._line: socket.socket | None = None
        self._id = secrets.token_hex(8)

    def arm(self) -> None:
        """Prepare the way. Raises RefusedError where the disk or the machine does not have it."""
        disk = own_disk(self._target.path)
        if disk.kind == "tmpfs":
            raise RefusedError("the job's disk is memory (tmpfs): slow or hanging it can only be as a loop device, as root")
        self._device = disk.device
        if self._params.how == "contend":
            self._child = Child("writer", self._target.path)
        elif self._params.how == "throttle":
            self._group = throttle.throttled_group(self._target.process.who.pid)
        else:
            self._line = _connect(_keeper())

    def undo(self) -> Undo:
        """Whom to end, which limit to lift, where to thaw. A limit is the machine's: it outlives the virtual cluster."""
        undo: Undo = {"how": self._params.how, "path": str(self._target.path), "device": self._device}
        if self._child is not None:
            undo["writer"] = self._child.key
        if self._group is not None:
            undo |= {"group": str(self._group.path), "version": self._group.version, "outlives": True}
            undo |= {"limit_bytes_per_s": int(self._params.bytes_per_s)}
        if self._line is not None:
            undo |= {"socket": _keeper(), "id": self._id}
        return undo

    def apply(self) -> dict[str, Any]:
        """Let the writer go, set the limit, or freeze. Raises RefusedError where a limit on this disk is in force already."""
        if self._child is not None:
            self._child.go(self._params.bytes_per_s, self._params.block_bytes, int(self._params.sync == "yes"))
            return {"writers_count": 1}
        if self._group is not None:
            if throttle.limit_of(str(self._group.path), self._group.version, self._device):
                raise RefusedError("what may be written to the job's disk is limited already")
            throttle.limit(self._group, self._device, int(self._params.bytes_per_s))
            return {"limit_bytes_per_s": int(self._params.bytes_per_s)}
        assert self._line is not None
        return {"state": _say(self._line, f"freeze {self._id}")}

    def verify(self) -> Measurement:
        """Another process counts what the writer writes, or writes to the disk itself and times it."""
        asked = self._params.bytes_per_s
        if self._child is not None:
            found = self._ctx.ask("write_rate", {"process": self._child.key, "window_s": WINDOW_S})
            ok = LEAST_PART * asked <= found["bytes_per_s"] <= MOST_PART * asked
            return Measurement(ok=ok, probe="bytes written by others", measured={**found, "asked_bytes_per_s": asked})
        within = HANG_S if self._line is not None else WINDOW_S
        found = self._ctx.ask("disk_write", {"path": str(self._target.path), "bytes_per_s": asked, "within_s": within})
        ok = found["hangs"] if self._line is not None else found["bytes_per_s"] <= MOST_PART * asked
        return Measurement(ok=ok, probe="a write of its own", measured={**found, "asked_bytes_per_s": asked})

    @staticmethod
    def revert(undo: Undo) -> None:
        """End the writer; lift the limit if it is ours; thaw."""
        if "writer" in undo:
            end(undo["writer"])
        elif "group" in undo:
            now = throttle.limit_of(undo["group"], undo["version"], undo["device"])
            if now and now == undo["limit_bytes_per_s"]:
                throttle.limit(Group(Path(undo["group"]), undo["version"]), undo["device"], 0)
        else:
            with suppress(FileNotFoundError, ConnectionRefusedError):  # the place is gone, and with it its disk
                line = _connect(undo["socket"])
                _say(line, f"thaw {undo['id']}")
                line.close()

    @staticmethod
    def gone(undo: Undo, ask: Ask) -> Measurement:
        """Another process finds no such writer, no such limit, and a disk that takes a write."""
        found = ask("disk_again", undo)
        return Measurement(ok=found["free"], probe="a write of its own", measured=found)


def _keeper() -> str:
    """The socket of the process that keeps the job's disk: it lies in the folder of the place that this process belongs to."""
    return str(Path(os.environ.get(strays.MARK, "")) / SOCKET_NAME)


def _connect(path: str) -> socket.socket:
    line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    line.settimeout(ANSWER_S)
    try:
        line.connect(path)
    except OSError:
        line.close()
        raise
    return line


def _say(line: socket.socket, word: str) -> str:
    try:
        line.sendall(word.encode() + b"\n")
        return line.recv(64).decode().strip()
    except TimeoutError as error:
        raise StuckError(f"the keeper of the job's disk did not answer {word!r} within {ANSWER_S:.0f} s") from error
