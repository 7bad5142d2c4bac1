"""Every socket of the job is made here: dialled by (source, destination, purpose) through the name table.

The table (``addresses.json`` in the folder named by JOB_DIR) is read anew for each connection, so an address may move while the
job runs. Sockets are set as on a cluster: cubic, 1448-byte segments, no Nagle delay; loopback's own defaults hide loss.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

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


class _LinkAdapter(HTTPAdapter):
    """Makes the connections of one session by `dial`, whatever host the URL names."""

    def __init__(self, src: str, dst: str, purpose: str, made: Callable[[socket.socket], None]):
        class Connection(HTTPConnection):
            def __str__(self) -> str:  # begins every error's text
                return f"connection to {dst}"

            def _new_conn(self) -> socket.socket:
                timeout = self.timeout if isinstance(self.timeout, int | float) else None
                try:
                    return dial(src, dst, purpose, timeout, made)
                except TimeoutError as error:
                    raise ConnectTimeoutError(self, f"timed out after {timeout} s") from error
                except OSError as error:
                    raise NewConnectionError(self, f"failed: {error}") from error

        class Pool(HTTPConnectionPool):
            ConnectionCls = Connection

        self._pool = Pool
        super().__init__(pool_connections=1, pool_maxsize=4)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **options: Any) -> None:
        self.poolmanager = urllib3.PoolManager(num_pools=connections, maxsize=maxsize, block=block, **options)
        self.poolmanager.pool_classes_by_scheme = {"http": self._pool}


class LinkSession(requests.Session):
    """A keep-alive HTTP session of one link; URLs are ``http://<dst>/...``. No proxy or netrc of the user's is obeyed."""

    def __init__(self, src: str, dst: str, purpose: str):
        super().__init__()
        self.trust_env = False
        self._streams: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._lock = threading.Lock()
        self.mount("http://", _LinkAdapter(src, dst, purpose, self._keep))

    def cut(self) -> None:
        """Break every connection, also one that another thread waits at; what is asked next makes a new one."""
        with self._lock:
            streams = list(self._streams)
        for stream in streams:
            with suppress(OSError):  # it is not connected, or not any more
                stream.shutdown(socket.SHUT_RDWR)

    def _keep(self, stream: socket.socket) -> None:
        with self._lock:
            self._streams.add(stream)


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
