"""A relayed link: a listener, and for each accepted connection a second one to the upstream, joined by two pipes."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any

from injection.pipe import Pipe
from injection.toxics import STREAMS, Toxic

#: Receive buffers of fixed size: autotuned ones would swallow tens of megabytes that a shaped link is yet to carry.
RECEIVE_BYTES = 256 * 1024
WRITE_HIGH_BYTES = 256 * 1024
READ_BYTES = 256 * 1024
#: What is counted of each direction, in bytes.
COUNTED = ("received", "sent")
#: Linger on, zero seconds: close sends RST.
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


def split_address(address: str) -> tuple[str, int]:
    """``host:port`` as a pair. Raises ValueError."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"not an address of the form host:port: {address!r}")
    return host.strip("[]"), int(port)


class End(asyncio.BufferedProtocol):
    """One socket of a connection: what it receives goes into ``outgoing``; ``incoming`` is what is written to it."""

    def __init__(self, connection: Connection, outgoing: Pipe, incoming: Pipe) -> None:
        self.connection = connection
        self.outgoing = outgoing
        self.incoming = incoming
        self.transport: asyncio.Transport | None = None
        self._buffer = bytearray(READ_BYTES)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is there; nothing is read before both are."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        # Not at once: until Python 3.12 a new transport starts to read after this call, paused or not.
        asyncio.get_running_loop().call_soon(transport.pause_reading)
        transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connection.end_ready(self)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - the protocol's signature
        """Where to receive into."""
        return memoryview(self._buffer)[: self.outgoing.appetite()]

    def buffer_updated(self, nbytes: int) -> None:
        """Received."""
        self.outgoing.feed(bytes(memoryview(self._buffer)[:nbytes]))

    def eof_received(self) -> bool:
        """The peer sends no more; our half stays open until the other direction has ended too."""
        self.outgoing.finish()
        return True

    def pause_writing(self) -> None:
        """The socket takes no more for now."""
        self.incoming.sink_full(full=True)

    def resume_writing(self) -> None:
        """It does again."""
        self.incoming.sink_full(full=False)

    def connection_lost(self, exc: Exception | None) -> None:
        """Closed by us, or broken by the peer; what breaks on one side breaks on the other."""
        self.connection.end_lost(broken=exc is not None)

    def shut(self, *, reset: bool) -> None:
        """Close this socket; ``reset`` makes the peer see RST at once."""
        if self.transport is None:
            return
        if reset:
            raw = self.transport.get_extra_info("socket")
            if raw.fileno() >= 0:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            self.transport.abort()
        else:
            self.transport.close()


class Connection:
    """An accepted connection and its twin to the upstream."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.pipes = {"upstream": Pipe(self), "downstream": Pipe(self)}
        self.client = End(self, self.pipes["upstream"], self.pipes["downstream"])
        self.server = End(self, self.pipes["downstream"], self.pipes["upstream"])
        self._dialling: asyncio.Task[None] | None = None
        self._over = False

    def end_ready(self, end: End) -> None:
        """A socket stands: after the client's, dial; after the upstream's, let data flow."""
        if end is self.client:
            self.proxy.connections.add(self)
            self._dialling = asyncio.get_running_loop().create_task(self._dial())

    async def _dial(self) -> None:
        loop = asyncio.get_running_loop()
        raw: socket.socket | None = None
        try:
            address = split_address(self.proxy.upstream)
            infos = await loop.getaddrinfo(*address, type=socket.SOCK_STREAM)
            raw = socket.socket(infos[0][0], socket.SOCK_STREAM)
            raw.settimeout(0)
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
            await loop.sock_connect(raw, infos[0][4])
            await loop.create_connection(lambda: self.server, sock=raw)
        except OSError:
            if raw is not None:
                raw.close()
            self.reset()  # the nearest to "connection refused" that is left once we have accepted
            return
        if self._over:
            self.server.shut(reset=True)
            return
        self._join()

    def _join(self) -> None:
        up, down = self.pipes["upstream"], self.pipes["downstream"]
        assert self.client.transport is not None
        assert self.server.transport is not None
        up.source = down.sink = self.client.transport
        down.source = up.sink = self.server.transport
        for toxic in self.proxy.toxics.values():
            self.pipes[toxic.stream].put_on(toxic)
        for end in (self.client, self.server):
            if end.transport is not None:
                end.transport.resume_reading()

    def direction_finished(self) -> None:
        """Close when both directions are through."""
        if all(pipe.finished for pipe in self.pipes.values()):
            self.close()

    def end_lost(self, *, broken: bool) -> None:
        """One socket is gone: so is the other, in the same manner."""
        self._end(reset=broken)

    def close(self) -> None:
        """Close both ends after what was already written."""
        self._end(reset=False)

    def reset(self) -> None:
        """Reset both ends."""
        self._end(reset=True)

    def _end(self, *, reset: bool) -> None:
        if self._over:
            return
        self._over = True
        self.proxy.forget(self)
        for pipe in self.pipes.values():
            pipe.stop()
        for end in (self.client, self.server):
            end.shut(reset=reset)


class Proxy:
    """A link by name. ``listen`` may ask for port 0 and holds the real one once started."""

    def __init__(self, name: str, listen: str, upstream: str) -> None:
        self.name = name
        self.listen = listen
        self.upstream = upstream
        self.toxics: dict[str, Toxic] = {}
        self.connections: set[Connection] = set()
        self._carried = {(stream, what): 0 for stream in STREAMS for what in COUNTED}
        self._server: asyncio.Server | None = None

    @property
    def enabled(self) -> bool:
        """Whether it listens."""
        return self._server is not None

    async def start(self) -> None:
        """Listen; does nothing when it does already. Raises OSError, ValueError."""
        if self._server is not None:
            return
        host, port = split_address(self.listen)
        split_address(self.upstream)
        listener = socket.create_server((host, port), backlog=512)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)  # accepted sockets inherit it
        self.listen = f"{host}:{listener.getsockname()[1]}"
        self._server = await asyncio.get_running_loop().create_server(lambda: Connection(self).client, sock=listener)

    def stop(self) -> None:
        """Listen no more and close every connection."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in list(self.connections):
            connection.close()

    def forget(self, connection: Connection) -> None:
        """A connection is over; what it carried still counts."""
        if connection in self.connections:
            self.connections.discard(connection)
            for stream, what in self._carried:
                self._carried[stream, what] += getattr(connection.pipes[stream], f"{what}_bytes")

    def carried(self) -> dict[tuple[str, str], int]:
        """Bytes by direction and by what became of them: received, sent."""
        pipes = [connection.pipes for connection in self.connections]
        return {
            (stream, what): before + sum(getattr(pipe[stream], f"{what}_bytes") for pipe in pipes)
            for (stream, what), before in self._carried.items()
        }

    def put_on(self, toxic: Toxic) -> None:
        """Add or change a toxic, on connections that exist too."""
        self.toxics[toxic.name] = toxic
        for connection in list(self.connections):
            connection.pipes[toxic.stream].put_on(toxic)

    def take_off(self, name: str) -> None:
        """Remove a toxic; what it held back goes on. Never waits. Raises KeyError."""
        toxic = self.toxics.pop(name)
        for connection in list(self.connections):
            connection.pipes[toxic.stream].take_off(toxic)

    def as_json(self) -> dict[str, Any]:
        """As the API shows it."""
        return {
            "name": self.name,
            "listen": self.listen,
            "upstream": self.upstream,
            "enabled": self.enabled,
            "toxics": [toxic.as_json() for toxic in self.toxics.values()],
        }
