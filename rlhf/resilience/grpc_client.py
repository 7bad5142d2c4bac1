"""Unary gRPC calls over a socket that the caller makes: gRPC's own client chooses its sockets, their source address among them.

One connection, kept between calls and made anew after any failure; HTTP/2 itself is the library's (h2).
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import ProtocolError

Message = dict[str, Any]
#: Makes a connection within so many seconds. Raises OSError.
Dial = Callable[[float], socket.socket]

OK, DEADLINE_EXCEEDED, UNAVAILABLE = 0, 4, 14
SERVING = 1
PREFIX_BYTES = 5


class GrpcClient:
    """Calls one service of one server. For many threads, one call at a time."""

    def __init__(self, dial: Dial, service: str):
        self._dial, self._service = dial, service
        self._socket: socket.socket | None = None
        self._http = H2Connection()
        self._lock = threading.Lock()

    def call(self, method: str, message: Message, timeout_s: float) -> Message:
        """The JSON answer. Raises ConnectionError when nobody answers in time, ValueError when the server refuses."""
        answer: Message = json.loads(self._unary(f"/{self._service}/{method}", json.dumps(message).encode(), timeout_s))
        return answer

    def healthy(self, timeout_s: float) -> bool:
        """What the standard health service says of this service."""
        from grpc_health.v1 import health_pb2

        asked = health_pb2.HealthCheckRequest(service=self._service).SerializeToString()
        try:
            answer = self._unary("/grpc.health.v1.Health/Check", asked, timeout_s)
        except (ConnectionError, ValueError):
            return False
        return bool(health_pb2.HealthCheckResponse.FromString(answer).status == SERVING)

    def close(self) -> None:
        """Give the connection up; the next call makes another."""
        stream, self._socket = self._socket, None
        if stream is not None:
            stream.close()

    def _unary(self, path: str, body: bytes, timeout_s: float) -> bytes:
        end, method = time.monotonic() + timeout_s, path.rpartition("/")[2]
        with self._lock:
            try:
                stream = self._connected(end)
                status, text, answer = self._exchange(stream, path, body, end)
            except (OSError, ProtocolError) as error:
                self.close()
                raise ConnectionError(f"{method}: {error or type(error).__name__}") from error
        if status in (UNAVAILABLE, DEADLINE_EXCEEDED):
            raise ConnectionError(f"{method}: gRPC status {status}: {text}")
        if status != OK:
            raise ValueError(f"{method}: gRPC status {status}: {text}")
        return answer[PREFIX_BYTES:]

    def _connected(self, end: float) -> socket.socket:
        if self._socket is None:
            self._socket = self._dial(_left(end))
            self._http = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
            self._http.initiate_connection()
        return self._socket

    def _exchange(self, stream: socket.socket, path: str, body: bytes, end: float) -> tuple[int, str, bytes]:
        """Status, its text and the body of the answer to one request."""
        number = self._http.get_next_available_stream_id()
        headers = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "localhost"), ("te", "trailers")]
        headers += [("content-type", "application/grpc"), ("grpc-timeout", f"{int(_left(end) * 1000) + 1}m")]
        self._http.send_headers(number, headers)
        self._http.send_data(number, b"\0" + len(body).to_bytes(4, "big") + body, end_stream=True)
        told: dict[str, str] = {}
        answer, ended = b"", False
        while not ended:
            for event in self._turn(stream, end):
                if isinstance(event, StreamReset | ConnectionTerminated):
                    raise ConnectionResetError("the server has ended the exchange")
                if getattr(event, "stream_id", None) != number:
                    continue
                if isinstance(event, ResponseReceived | TrailersReceived):
                    told |= {str(name): str(value) for name, value in event.headers}
                elif isinstance(event, DataReceived):
                    answer += event.data
                    self._http.acknowledge_received_data(event.flow_controlled_length, number)
                ended |= isinstance(event, StreamEnded)
        if "grpc-status" not in told:
            raise ConnectionAbortedError(f"no gRPC answer: HTTP {told.get(':status')}")
        return int(told["grpc-status"]), unquote(told.get("grpc-message", "")), answer

    def _turn(self, stream: socket.socket, end: float) -> list[Event]:
        """Send what is due and take in what comes."""
        stream.settimeout(_left(end))
        stream.sendall(self._http.data_to_send())
        part = stream.recv(65536)
        if not part:
            raise ConnectionResetError("the server has closed the connection")
        events = list(self._http.receive_data(part))
        stream.sendall(self._http.data_to_send())  # settings and pings are acknowledged now, not at the next call
        return events


def _left(end: float) -> float:
    """Seconds until then. Raises TimeoutError when there are none."""
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError("no answer in time")
    return left
