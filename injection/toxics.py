"""What a relayed direction can suffer. One small class each; its fields are the attributes on the wire (Toxiproxy's names).

Times are milliseconds, ``rate`` is kilobytes (1000 bytes) per second; fractions are allowed.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from injection.pipe import Piece, Pipe

STREAMS = ("upstream", "downstream")
#: A shaped direction passes its bytes in pieces of this much time.
PIECE_S = 0.02


class ToxicError(ValueError):
    """A toxic's type, stream or attribute is not one that exists; the text names it and what there is."""


class Effect:
    """What a toxic does; the defaults do nothing."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant. Raises ToxicError."""
        for one in fields(self):  # type: ignore[arg-type]
            value = getattr(self, one.name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
                raise ToxicError(f"{one.name} must be a number of at least 0, not {value!r}")

    def piece_bytes(self) -> int | None:
        """The most that may pass at once; None = any amount."""
        return None

    def buffer_bytes(self) -> int:
        """How much may wait inside before the sender is held back."""
        return 1 << 20

    def begin(self, pipe: Pipe) -> None:
        """The toxic starts, or was changed, on a direction of a connection."""

    def end(self, pipe: Pipe) -> None:
        """The toxic was taken off a direction of a connection."""

    async def hold(self, pipe: Pipe, piece: Piece) -> bool:  # noqa: ARG002 - what overriders need
        """Wait as long as the piece must; False = it is lost. Must return soon when the toxic is taken off."""
        return True

    async def hold_end(self, pipe: Pipe) -> None:
        """Wait as long as the end of the stream must. Must return soon when the toxic is taken off."""


@dataclass
class Noop(Effect):
    """Nothing at all."""


@dataclass
class Latency(Effect):
    """Everything arrives ``latency`` ± ``jitter`` (uniform) later; counted from arrival, so that delays do not add up."""

    latency: float = 0
    jitter: float = 0

    def buffer_bytes(self) -> int:
        """As a long link holds much."""
        return 8 << 20

    async def hold(self, pipe: Pipe, piece: Piece) -> bool:
        """Until the piece is old enough."""
        while pipe.suffers(self):
            late = piece.arrived + (self.latency + self.jitter * piece.draw) / 1000 - time.monotonic()
            if late <= 0:
                break
            await pipe.nap(late)
        return True


@dataclass
class Bandwidth(Effect):
    """At most ``rate`` passes; a piece leaves when its last byte would have been sent."""

    rate: float = 0

    def __post_init__(self) -> None:
        """A rate of nothing would be another fault (timeout). Raises ToxicError."""
        super().__post_init__()
        if self.rate <= 0:
            raise ToxicError("rate must be above 0 KB/s")

    def piece_bytes(self) -> int:
        """About PIECE_S worth."""
        return max(1, int(self.rate * 1000 * PIECE_S))

    def buffer_bytes(self) -> int:
        """Two pieces: what waits here is what the sender believes sent, so the intake keeps the rate too."""
        return 2 * self.piece_bytes()

    async def hold(self, pipe: Pipe, piece: Piece) -> bool:
        """Until the link was free for as long as the piece takes."""
        start = max(time.monotonic() - PIECE_S, pipe.free_at)  # a timer's lateness, up to a piece, is made good
        while pipe.suffers(self):
            pipe.free_at = start + len(piece.data) / (self.rate * 1000)
            late = pipe.free_at - time.monotonic()
            if late <= 0:
                break
            await pipe.nap(late)
        return True


@dataclass
class Timeout(Effect):
    """Nothing passes; after ``timeout`` the connection is closed, with 0 never. Taking it off closes the connection too."""

    timeout: float = 0

    def begin(self, pipe: Pipe) -> None:
        """The clock runs from now, whether data come or not."""
        if self.timeout > 0:
            pipe.after(self.timeout / 1000, pipe.connection.close)

    def end(self, pipe: Pipe) -> None:
        """Bytes were lost, so nothing sensible can follow on this connection."""
        pipe.connection.close()

    async def hold(self, pipe: Pipe, piece: Piece) -> bool:  # noqa: ARG002 - whatever it is
        """Lost."""
        return False


@dataclass
class ResetPeer(Effect):
    """``timeout`` after the first data both ends see their connection reset (RST)."""

    timeout: float = 0

    async def hold(self, pipe: Pipe, piece: Piece) -> bool:  # noqa: ARG002 - whatever it is
        """Reset, unless taken off before."""
        due = time.monotonic() + self.timeout / 1000
        while pipe.suffers(self):
            late = due - time.monotonic()
            if late <= 0:
                pipe.connection.reset()
                return False
            await pipe.nap(late)
        return True


@dataclass
class SlowClose(Effect):
    """The end of the stream is passed on ``delay`` later."""

    delay: float = 0

    async def hold_end(self, pipe: Pipe) -> None:
        """Unless taken off before."""
        due = time.monotonic() + self.delay / 1000
        while pipe.suffers(self) and (late := due - time.monotonic()) > 0:
            await pipe.nap(late)


@dataclass
class Slicer(Effect):
    """Data pass in slices of ``average_size`` ± ``size_variation`` bytes, ``delay`` microseconds apart."""

    average_size: float = 0
    size_variation: float = 0
    delay: float = 0

    def __post_init__(self) -> None:
        """Slices have a byte at least. Raises ToxicError."""
        super().__post_init__()
        if self.average_size - self.size_variation < 1:
            raise ToxicError("average_size must be at least 1 above size_variation")

    def piece_bytes(self) -> int:
        """Another size each time."""
        return int(random.uniform(self.average_size - self.size_variation, self.average_size + self.size_variation))  # noqa: S311

    async def hold(self, pipe: Pipe, piece: Piece) -> bool:  # noqa: ARG002 - whatever it is
        """The pause between two slices."""
        due = time.monotonic() + self.delay / 1e6
        while pipe.suffers(self) and (late := due - time.monotonic()) > 0:
            await pipe.nap(late)
        return True


@dataclass
class LimitData(Effect):
    """After ``bytes`` of a direction the connection is closed; counted from when the connection began to suffer it."""

    bytes: float = 0

    async def hold(self, pipe: Pipe, piece: Piece) -> bool:
        """What is beyond the limit is lost."""
        left = max(0, int(self.bytes) - pipe.limited_bytes)
        if len(piece.data) >= left:
            piece.data = piece.data[:left]
            pipe.after(0, pipe.connection.close)  # when this last piece was written
        pipe.limited_bytes += len(piece.data)
        return True


EFFECTS: dict[str, type[Effect]] = {
    "noop": Noop,
    "latency": Latency,
    "bandwidth": Bandwidth,
    "timeout": Timeout,
    "reset_peer": ResetPeer,
    "slow_close": SlowClose,
    "slicer": Slicer,
    "limit_data": LimitData,
}


def make_effect(kind: str, attributes: dict[str, Any]) -> Effect:
    """An effect by its type's name. Raises ToxicError naming what is unknown."""
    if kind not in EFFECTS:
        raise ToxicError(f"invalid toxic type: {kind!r}; known: {', '.join(EFFECTS)}")
    known = [one.name for one in fields(EFFECTS[kind])]  # type: ignore[arg-type]
    unknown = sorted(set(attributes) - set(known))
    if unknown:
        raise ToxicError(f"unknown attribute {', '.join(unknown)} of {kind}; known: {', '.join(known) or 'none'}")
    return EFFECTS[kind](**attributes)


@dataclass
class Toxic:
    """A toxic on a proxy: ``toxicity`` is the share of connections that suffer it, drawn once per connection."""

    name: str
    type: str
    stream: str
    toxicity: float
    effect: Effect = field(default_factory=Noop)

    def as_json(self) -> dict[str, Any]:
        """As the API shows it."""
        return {
            "name": self.name,
            "type": self.type,
            "stream": self.stream,
            "toxicity": self.toxicity,
            "attributes": dict(vars(self.effect)),
        }


def make_toxic(body: dict[str, Any]) -> Toxic:
    """A toxic from the API's words. Raises ToxicError."""
    kind, stream = str(body.get("type", "")), body.get("stream") or "downstream"
    if stream not in STREAMS:
        raise ToxicError("stream was invalid, can be either upstream or downstream")
    effect = make_effect(kind, body.get("attributes") or {})
    return Toxic(str(body.get("name") or f"{kind}_{stream}"), kind, stream, checked_toxicity(body.get("toxicity", 1.0)), effect)


def checked_toxicity(value: object) -> float:
    """A share from 0 to 1. Raises ToxicError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ToxicError(f"toxicity must lie between 0 and 1, not {value!r}")
    return float(value)
