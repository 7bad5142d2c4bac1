"""Every socket of the job is made here: dialled by (source, destination, purpose) through the name table.

The table (``addresses.json`` in the folder named by JOB_DIR) is read anew for each connection, so an address may move while the
job runs. Sockets are set as on a cluster: cubic, 1448-byte segments, no Nagle delay; loopback's own defaults hide loss.
"""

from __future__ import annotations

import io
import json
import os
import select
import socket
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any

import requests

from rlhf.request_id import REQUEST_ID, request_id

CONGESTION = b"cubic"
SEGMENT_BYTES = 1448
#: From linux/in.h; Python's socket module does not name it: the port of a bound source address is chosen when connecting.
IP_BIND_ADDRESS_NO_PORT = 24


def job_dir() -> Path:
    """The job's folder."""
    return Path(os.environ["JOB_DIR"])


def name_table() -> dict[str, Any]:
    """The name table as it is now."""
    table: dict[str, Any] = json.loads((job_dir() / "addresses.json").read_text())
    return table


def split_address(address: str) -> tuple[str, int]:
    """("10.98.0.101", 7001) from "10.98.0.101:7001"."""
    host, _, port = address.rpartition(":")
    return host, int(port)


def dial_address(src: str, dst: str, purpose: str) -> str:
    """What ``src`` dials to reach ``dst``. Raises LookupError for a link the table does not have."""
    link = f"{src}>{dst}:{purpose}"
    try:
        return str(name_table()["dial"][link])
    except KeyError:
        raise LookupError(f"no link {link} in the name table") from None


def listen_address(component: str, purpose: str) -> tuple[str, int]:
    """Where a component listens. Raises LookupError if it does not listen for that."""
    try:
        return split_address(name_table()["listen"][component][purpose])
    except KeyError:
        raise LookupError(f"{component} does not listen for {purpose}") from None


def prepare(stream: socket.socket) -> None:
    """Set the options every socket of the job has. A kernel without cubic keeps its default."""
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT_BYTES)
    try:
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, CONGESTION)
    except OSError:
        return


def options_of(stream: socket.socket) -> dict[str, str | int]:
    """The options as the kernel has them, for the record."""
    congestion = stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).split(b"\0")[0].decode()
    return {"congestion": congestion, "segment_bytes": stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)}


def listen(component: str, purpose: str) -> socket.socket:
    """A listening socket at the component's own address alone. Raises OSError naming the address when it is taken."""
    address = listen_address(component, purpose)
    server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    prepare(server)
    try:
        server.bind(address)
    except OSError as error:
        server.close()
        raise OSError(error.errno, f"{component} cannot listen on {address[0]}:{address[1]}: {error.strerror}") from None
    server.listen(128)
    return server


def dial(
    src: str, dst: str, purpose: str, timeout_s: float | None, made: Callable[[socket.socket], None] = lambda _: None
) -> socket.socket:
    """A connection of the link, from the source's own address; ``made`` gets the socket before it connects. Raises OSError."""
    table = name_table()
    stream = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        made(stream)
        prepare(stream)
        stream.settimeout(timeout_s)
        source = table["bind"].get(src)
        if source:
            stream.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            stream.bind((source, 0))
        stream.connect(split_address(table["dial"][f"{src}>{dst}:{purpose}"]))
    except BaseException:
        stream.close()
        raise
    return stream


class UnmadeConnectionError(Exception):
    """A connection that was never made, so nothing was received; `reason` is what the system said."""

    def __init__(self, dst: str, reason: OSError):
        self.reason = f"connection to {dst}: failed: {reason}"
        super().__init__(self.reason)


class LinkSession(requests.Session):
    """A keep-alive HTTP session of one link; URLs are ``http://<dst>/...``. No proxy, cookie or netrc of the user's is obeyed.

    What it raises is what requests raises. It speaks http.client itself: a call costs 0.3 ms of a core instead of 0.8.
    """

    def __init__(self, src: str, dst: str, purpose: str):
        super().__init__()
        self.trust_env = False
        self._link = (src, dst, purpose)
        self._idle: list[socket.socket] = []
        self._streams: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._lock = threading.Lock()

    def request(  # type: ignore[override]  # the few words that a link needs
        self,
        method: str,
        url: str,
        *,
        timeout: float | None = None,
        data: bytes | None = None,
        json: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """One request; `timeout` seconds for connecting, and for each wait after that."""
        told = {REQUEST_ID: request_id(), **(headers or {})}
        if json is not None:
            data, told["Content-Type"] = json_bytes(json), "application/json"
        stream = self._connected(timeout)
        try:
            stream.settimeout(timeout)
            with suppress(BrokenPipeError, ConnectionResetError):  # it may have answered before it hung up
                stream.sendall(_request_bytes(method, url, told, data))
            answer = HTTPResponse(stream, method=method)
            answer.begin()
            content = answer.read()
        except TimeoutError as error:
            stream.close()
            raise requests.ReadTimeout(f"connection to {self._link[1]}: Read timed out. (read timeout={timeout})") from error
        except (OSError, HTTPException) as error:
            stream.close()
            raise requests.ConnectionError(f"Connection aborted: {error!r}") from error
        except BaseException:
            stream.close()
            raise
        self._put_back(stream, usable=not answer.will_close)
        return _response(url, answer, content)

    def get(self, url: str, **asked: Any) -> requests.Response:  # type: ignore[override]
        return self.request("GET", url, **asked)

    def post(self, url: str, **asked: Any) -> requests.Response:  # type: ignore[override]
        return self.request("POST", url, **asked)

    def cut(self) -> None:
        """Break every connection, also one that another thread waits at; what is asked next makes a new one."""
        with self._lock:
            streams = list(self._streams)
        for stream in streams:
            with suppress(OSError):  # it is not connected, or not any more
                stream.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close what is not in use; what is asked next makes a new connection."""
        with self._lock:
            idle, self._idle = self._idle, []
        for stream in idle:
            stream.close()

    def _connected(self, timeout_s: float | None) -> socket.socket:
        """A connection that was kept, unless the other side has closed it, or a new one."""
        with self._lock:
            while self._idle:
                stream = self._idle.pop()
                if not select.select([stream], [], [], 0)[0]:
                    return stream
                stream.close()
        dst = self._link[1]
        try:
            return dial(*self._link, timeout_s, self._keep)
        except TimeoutError as error:
            raise requests.ConnectTimeout(f"connection to {dst}: timed out after {timeout_s} s") from error
        except OSError as error:
            raise requests.ConnectionError(UnmadeConnectionError(dst, error)) from error

    def _put_back(self, stream: socket.socket, *, usable: bool) -> None:
        if not usable:
            stream.close()
            return
        with self._lock:
            self._idle.append(stream)

    def _keep(self, stream: socket.socket) -> None:
        with self._lock:
            self._streams.add(stream)


def json_bytes(value: Any) -> bytes:
    return json.dumps(value).encode()


def _request_bytes(method: str, url: str, headers: Mapping[str, str], data: bytes | None) -> bytes:
    """A whole request: headers and body leave together, and the other side wakes once."""
    _, _, rest = url.partition("://")
    host, _, path = rest.partition("/")
    lines = [f"{method} /{path} HTTP/1.1", f"Host: {host}", *(f"{name}: {value}" for name, value in headers.items())]
    if data is not None or method in ("PUT", "POST"):
        lines.append(f"Content-Length: {len(data or b'')}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (data or b"")


def _response(url: str, answer: HTTPResponse, content: bytes) -> requests.Response:
    """As requests would give it."""
    response = requests.Response()
    response.url, response.status_code, response.reason, response.encoding = url, answer.status, answer.reason, "utf-8"
    response.headers.update(answer.headers.items())
    response.raw = io.BytesIO(content)
    return response


def open_session(src: str, dst: str, purpose: str) -> LinkSession:
    """A session of one link."""
    return LinkSession(src, dst, purpose)


@contextmanager
def closing_session(src: str, dst: str, purpose: str) -> Iterator[LinkSession]:
    """A session that is closed afterwards."""
    session = open_session(src, dst, purpose)
    try:
        yield session
    finally:
        session.close()
