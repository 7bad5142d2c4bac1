"""The state of each link of the job: what its dialler's kernel knows of the connections between its two addresses.

A connection that is established, has bytes to send and acknowledges none is what a stuck link looks like from below.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from telemetry.nametable import NameTable
from telemetry.registry import Registered
from telemetry.sockdiag import CONNECTING, ESTABLISHED, Connection, SocketTable
from telemetry.sources import Reading

#: Metric and unit. A link's component is ``src>dst:purpose``, its host the dialler's; with no connection the first two.
LINK_METRICS: tuple[tuple[str, str], ...] = (
    ("link_connections", "count"),
    ("link_connecting", "count"),
    ("link_send_queue_bytes", "bytes"),
    ("link_receive_queue_bytes", "bytes"),
    ("link_rtt_s", "s"),
    ("link_silent_s", "s"),
    ("link_retransmits_per_s", "1/s"),
    ("link_acked_bytes_per_s", "bytes/s"),
    ("link_received_bytes_per_s", "bytes/s"),
)
_COUNTED = ("retransmits", "acked", "received")

logger = logging.getLogger("sampler")


class LinkSource:
    """Reads the links of the name table, in the network of each host that has a process."""

    def __init__(self, names: NameTable) -> None:
        self._names = names
        self._tables: dict[str, SocketTable | None] = {}
        self._before: dict[str, tuple[float, dict[int, Connection]]] = {}

    @property
    def lacks(self) -> str:
        """Only hosts that have been seen can be refused."""
        refused = [host for host, table in self._tables.items() if table is None]
        return f"no way into the network of {', '.join(refused)}" if len(refused) == len(self._tables) > 0 else ""

    def follow(self, entries: dict[str, Registered]) -> None:
        """Enter the network of each host that was not entered yet; where that is refused, its links are not told."""
        for entry in entries.values():
            if entry.host in self._tables:
                continue
            try:
                self._tables[entry.host] = SocketTable(entry.pid)
            except (FileNotFoundError, ProcessLookupError):
                continue  # gone already; another one of that host will come
            except OSError as error:
                logger.warning("links of %s cannot be seen: %s", entry.host, error)
                self._tables[entry.host] = None

    def read(self, mono_s: float) -> Iterable[Reading]:
        """Per link: its connections taken together; the slowest rtt, the shortest silence."""
        links = self._names.links()
        for host, table in self._tables.items():
            if table is None:
                continue
            names = {key[1:]: name for key, name in links.items() if key[0] == host}
            try:
                found = table.connections()
            except OSError:
                for name in names.values():
                    yield host, name, LINK_METRICS, [None] * len(LINK_METRICS)
                continue
            yield from self._of_host(mono_s, host, names, found)

    def close(self) -> None:
        """Give the sockets back; idempotent."""
        for table in self._tables.values():
            if table:
                table.close()

    def _of_host(
        self, mono_s: float, host: str, names: dict[tuple[str, str], str], found: list[Connection]
    ) -> Iterable[Reading]:
        by_link: dict[str, list[Connection]] = {name: [] for name in names.values()}
        for one in found:
            name = names.get((one.local.rpartition(":")[0], one.remote))
            if name:
                by_link[name].append(one)
        before = self._before.get(host)
        for name, connections in by_link.items():
            values = link_values(connections, mono_s, before)
            yield host, name, LINK_METRICS[: len(values)], values
        self._before[host] = (mono_s, {one.cookie: one for group in by_link.values() for one in group})


def link_values(
    connections: Sequence[Connection], mono_s: float, before: tuple[float, dict[int, Connection]] | None
) -> list[float | None]:
    """One value per `LINK_METRICS`, or the first two without a connection. A new one counts from its beginning."""
    open_ones = [one for one in connections if one.state == ESTABLISHED]
    head: list[float | None] = [float(len(open_ones)), float(sum(one.state == CONNECTING for one in connections))]
    if not connections:
        return head
    rates: list[float | None] = [None] * len(_COUNTED)
    if before and mono_s > before[0]:
        grown = [
            sum(getattr(one, what) - getattr(before[1].get(one.cookie), what, 0) for one in connections) for what in _COUNTED
        ]
        rates = [count / (mono_s - before[0]) for count in grown]
    return [
        *head,
        float(sum(one.send_queue for one in connections)),
        float(sum(one.receive_queue for one in connections)),
        max((one.rtt_s for one in open_ones), default=None),
        min((one.silent_s for one in open_ones), default=None),
        *rates,
    ]
