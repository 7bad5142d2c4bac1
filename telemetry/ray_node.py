"""What Ray says of itself: the Prometheus page that each node's agent serves, where it was told to. Ray is not loaded here.

A node writes the page's port into its session's folder, -1 where there is no page. Ray renews the figures every few seconds.
"""

from __future__ import annotations

import errno
import re
import socket
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from telemetry.registry import Registered
from telemetry.sources import Reading

#: Metric and unit. Host and component are the node's host; only the head tells of actors.
RAY_METRICS: tuple[tuple[str, str], ...] = (
    ("ray_store_used_bytes", "bytes"),
    ("ray_store_free_bytes", "bytes"),
    ("ray_store_spilled_bytes", "bytes"),
    ("ray_store_objects", "count"),
    ("ray_actors_alive", "count"),
    ("ray_actors_starting", "count"),
    ("ray_actors_dead", "count"),
)
#: Ray's name of the figure, and what its labels must hold, in the order of `RAY_METRICS`; all rows that fit are added up.
_FIGURES = (
    (b"ray_object_store_used_memory", rb""),
    (b"ray_object_store_available_memory", rb""),
    (b"ray_object_store_memory", rb'Location="SPILLED"'),
    (b"ray_object_store_num_local_objects", rb""),
    (b"ray_actors", rb'Source="gcs",State="ALIVE"'),
    (b"ray_actors", rb'Source="gcs",State="(?:DEPENDENCIES_UNREADY|PENDING_CREATION|RESTARTING)"'),
    (b"ray_actors", rb'Source="gcs",State="DEAD"'),
)
_ROWS = tuple(
    re.compile(rb"^%s\{[^}\n]*%s[^}\n]*\} (\d+(?:\.\d*)?(?:e[-+]?\d\d?)?)$" % figure, re.MULTILINE) for figure in _FIGURES
)
_ACTORS = 4
_LONGEST_PAGE = 16 << 20


class RayNodeSource:
    """Asks each node of ``nodes`` (host -> folder of its session's parent, address) every ``every_s``; takes what has come."""

    def __init__(self, nodes: Mapping[str, tuple[Path, str]], every_s: float) -> None:
        self._nodes = nodes
        self._every_s = every_s
        self._due_s = 0.0
        self._pages: dict[str, Page] = {}
        self.lacks = "" if nodes else "no node of Ray was named"

    def follow(self, entries: dict[str, Registered]) -> None:
        """Ray's nodes are there before the job's processes, and after them."""

    def read(self, mono_s: float) -> Iterable[Reading]:
        """Of each node whose page has come, one value per `RAY_METRICS`; None of one that has not by the time of the next."""
        for host in [host for host, page in self._pages.items() if page.ended()]:
            yield host, host, RAY_METRICS, figures(self._pages.pop(host).text)
        if mono_s < self._due_s or not self._nodes:
            return
        self._due_s = mono_s + self._every_s
        for host, page in self._pages.items():
            page.close()
            yield host, host, RAY_METRICS, [None] * len(RAY_METRICS)
        ports = {host: page_port(folder) for host, (folder, _) in self._nodes.items()}
        self.lacks = "" if max(ports.values()) > 0 else "no node of Ray has a page of metrics"
        self._pages = {host: Page(self._nodes[host][1], port) for host, port in ports.items() if port > 0}

    def close(self) -> None:
        """Hang up; idempotent."""
        for page in self._pages.values():
            page.close()
        self._pages = {}


class Page:
    """One request to an agent, and what has come of its answer. Nothing here waits."""

    def __init__(self, address: str, port: int) -> None:
        self.text = b""
        self._asked = False
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self._socket.settimeout(0)
        with suppress(OSError):  # it is under way, or its failure shows when we read
            self._socket.connect((address, port))

    def ended(self) -> bool:
        """Take what is there; whether it was the last, of a page or of an attempt that failed."""
        try:
            if not self._asked:
                self._socket.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
                self._asked = True
            while piece := self._socket.recv(1 << 16):
                self.text += piece
                if len(self.text) > _LONGEST_PAGE:
                    break
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno == errno.ENOTCONN:
                return False
        self.close()
        return True

    def close(self) -> None:
        """Hang up; idempotent."""
        self._socket.close()


def page_port(folder: Path) -> int:
    """Where the node of the newest session below ``folder`` has its page; -1 = nowhere, or no node yet."""
    found = sorted(folder.glob("session_*/metrics_export_port_*"), key=str)
    try:
        return int(found[-1].read_text()) if found else -1
    except (OSError, ValueError):
        return -1


def figures(page: bytes) -> list[float | None]:
    """One value per `RAY_METRICS`; None for what the page does not tell, and throughout for what is no page."""
    if not re.match(rb"HTTP/1\.[01] 200 ", page):
        return [None] * len(RAY_METRICS)
    told = [sum(map(float, values)) if (values := row.findall(page)) else None for row in _ROWS]
    # Who tells of actors at all leaves out the states that none is in.
    absent = None if told[_ACTORS:] == [None] * len(told[_ACTORS:]) else 0.0
    return [absent if at >= _ACTORS and value is None else value for at, value in enumerate(told)]
