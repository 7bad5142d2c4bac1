"""One direction of one relayed connection: bytes in, bytes out, and between them whatever the toxics demand."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from injection.toxics import Effect, Toxic

#: What may wait inside an unharmed direction; then the sender is held back.
BUFFER_BYTES = 1 << 20


@dataclass
class Piece:
    """Bytes that arrived together at ``arrived`` (monotonic seconds); ``draw`` in [-1, 1] decides their jitter."""

    data: bytes
    arrived: float
    draw: float


class Ends(Protocol):
    """What a direction may do to the connection it belongs to."""

    def close(self) -> None:
        """Close both ends, after what was already handed to the kernel."""

    def reset(self) -> None:
        """Close both ends so that both see a reset (RST)."""

    def direction_finished(self) -> None:
        """One direction has passed on the end of its stream."""


class Pipe:
    """Carries ``source`` to ``sink``; both are set when both ends are connected. All of it runs in one event loop.

    Unharmed, data go straight on in the callback that brought them. Under a toxic they queue and a task delivers them.
    """

    def __init__(self, connection: Ends) -> None:
        self.connection = connection
        self.source: asyncio.Transport | None = None
        self.sink: asyncio.Transport | None = None
        self.free_at = 0.0
        """when the last shaped piece has left (monotonic seconds)"""
        self.finished = False
        """the end of the stream was passed on"""
        self.limited_bytes = 0
        """passed while their number was limited"""
        self.received_bytes = self.sent_bytes = 0
        self._effects: dict[str, Effect] = {}
        self._queue: deque[Piece | None] = deque()
        self._queued = 0
        self._sink_full = False
        self._sink_ready = asyncio.Event()
        self._sink_ready.set()
        self._deliverer: asyncio.Task[None] | None = None
        self._nap: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def put_on(self, toxic: Toxic) -> None:
        """A toxic starts or has changed; whether this connection suffers it was or is drawn now."""
        known = self._effects.get(toxic.name)
        if known is None and random.random() >= toxic.toxicity:  # noqa: S311 - chance, not secrecy
            return
        self._effects[toxic.name] = toxic.effect
        toxic.effect.begin(self)
        self._stir()

    def take_off(self, toxic: Toxic) -> None:
        """A toxic is gone; what it held goes on now."""
        effect = self._effects.pop(toxic.name, None)
        if effect is not None:
            self._stir()
            effect.end(self)

    def suffers(self, effect: Effect) -> bool:
        """Whether just this effect is on."""
        return any(one is effect for one in self._effects.values())

    async def nap(self, seconds: float) -> None:
        """Sleep, but wake when toxics change."""
        loop = asyncio.get_running_loop()
        self._nap = loop.create_future()
        timer = loop.call_later(seconds, self._stir)
        try:
            await self._nap
        finally:
            timer.cancel()
            self._nap = None

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        """Act once, later; a second call replaces the first."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, act)

    def _stir(self) -> None:
        if self._nap is not None and not self._nap.done():
            self._nap.set_result(None)

    def appetite(self) -> int:
        """The most to receive at once: a shaped direction takes in no more than it can soon pass."""
        return self._piece_bytes(BUFFER_BYTES)

    def _piece_bytes(self, most: int) -> int:
        """The most that may pass at once, up to ``most``."""
        sizes = [size for effect in self._effects.values() if (size := effect.piece_bytes()) is not None]
        return min([most, *sizes])

    def feed(self, data: bytes) -> None:
        """Data came from the source."""
        self.received_bytes += len(data)
        if self._deliverer is None and not self._effects:
            assert self.sink is not None
            self.sink.write(data)
            self.sent_bytes += len(data)
            return
        self._enqueue(Piece(data, time.monotonic(), random.uniform(-1, 1)))  # noqa: S311 - chance, not secrecy
        self._queued += len(data)
        self._balance()

    def finish(self) -> None:
        """The source sends no more; the sink hears of it after all that was sent."""
        if self._deliverer is None and not self._effects:
            self._pass_end()
        else:
            self._enqueue(None)

    def _enqueue(self, piece: Piece | None) -> None:
        self._queue.append(piece)
        if self._deliverer is None:
            self._deliverer = asyncio.get_running_loop().create_task(self._deliver())

    async def _deliver(self) -> None:
        while self._queue:
            piece = self._queue.popleft()
            if piece is None:
                for effect in list(self._effects.values()):
                    await effect.hold_end(self)
                self._pass_end()
                continue
            piece = self._cut(piece)
            passes, size = True, len(piece.data)
            for effect in list(self._effects.values()):
                passes = passes and await effect.hold(self, piece)
            await self._sink_ready.wait()
            assert self.sink is not None
            if passes:
                self.sink.write(piece.data)
                self.sent_bytes += len(piece.data)
            self._queued -= size
            self._balance()
        self._deliverer = None

    def _cut(self, piece: Piece) -> Piece:
        """The largest part of the piece that may pass at once; the rest goes back to the head of the queue."""
        size = self._piece_bytes(len(piece.data))
        if size >= len(piece.data):
            return piece
        self._queue.appendleft(Piece(piece.data[size:], piece.arrived, piece.draw))
        return Piece(piece.data[:size], piece.arrived, piece.draw)

    def _pass_end(self) -> None:
        assert self.sink is not None
        self.finished = True
        if not self.sink.is_closing():
            self.sink.write_eof()
        self.connection.direction_finished()

    def sink_full(self, *, full: bool) -> None:
        """The sink's buffer is full, or no longer."""
        self._sink_full = full
        if full:
            self._sink_ready.clear()
        else:
            self._sink_ready.set()
        self._balance()

    def _balance(self) -> None:
        """Hold the source back while the sink or the queue is full."""
        if self.source is None:
            return
        room = max((effect.buffer_bytes() for effect in self._effects.values()), default=BUFFER_BYTES)
        if self._sink_full or self._queued >= room:
            self.source.pause_reading()
        elif self._queued <= room // 2:
            self.source.resume_reading()

    def stop(self) -> None:
        """The connection is over: whatever waits is lost."""
        for waiting in (self._timer, self._deliverer):
            if waiting is not None:
                waiting.cancel()
        self._queue.clear()
