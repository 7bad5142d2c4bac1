"""Reading the kernel's own counters of a link: TCP connections by sock_diag, queues by their statistics. Puts nothing up.

It shares no code with `shaping.py` on purpose: a mistake there must not be believed here.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyroute2 import DiagSocket, IPRoute

SAMPLE_S = 0.05
#: States in which a connection can still have bytes under way (all but TIME_WAIT, CLOSE, LISTEN).
ALIVE_STATES = 0xFFF & ~((1 << 6) | (1 << 7) | (1 << 10))
INFO = 1 << 1
ESTABLISHED = 1

Connection = tuple[str, int, str, int]
Counters = dict[Connection, int]


def rate(src: str, dst: str, port: int, wait_s: float, window_s: float, *, answers: bool = False) -> dict[str, Any]:
    """Wait up to `wait_s` for bytes to flow from `src` to `dst`:`port`, then count for `window_s` what is acknowledged.

    With `answers` the port is that of `src`, which listens there.

    A connection that appears within the window counts from 0; one that disappears keeps what was last seen of it.
    `seen` is false where nothing flowed in all that time.
    """
    wanted = (src, dst, port)
    with DiagSocket() as diag:

        def count() -> Counters:
            flows = ((key, info) for key, info in _connections(diag) if (key[0], key[2], key[1 if answers else 3]) == wanted)
            return {key: int(info["tcpi_bytes_acked"]) for key, info in flows}

        flowing, before = _await_flow(count, wait_s)
        began = time.monotonic()
        last = dict(before)
        while time.monotonic() < began + window_s:
            time.sleep(SAMPLE_S)
            last.update(count())
        seconds = time.monotonic() - began
    got = sum(acked - before.get(key, 0) for key, acked in last.items())
    return {
        "seen": flowing or got > 0,
        "connections_count": len(last),
        "acked_bytes": got,
        "window_s": round(seconds, 4),
        "rate_bytes_per_s": round(got / seconds, 1),
    }


def request_rate(dst: str, port: int, least_bytes: float, enough_bytes_per_s: float, wait_s: float) -> dict[str, Any]:
    """The slowest request seen on connections dialled to `dst`:`port`: its bytes over the time for which no answer came.

    A relay takes bytes in long before it passes them on, so the dialler's counters alone tell nothing; but no answer comes
    before the last byte has arrived. Requests below `least_bytes` do not count. Stops once one is slower than enough.
    """
    slowest, requests = float("inf"), Requests()
    deadline = time.monotonic() + wait_s
    with DiagSocket() as diag:
        while slowest > enough_bytes_per_s and time.monotonic() < deadline:
            now = time.monotonic()
            for key, info in _connections(diag):
                if key[2:] == (dst, port):
                    sent, waited_s = requests.seen(key, int(info["tcpi_bytes_acked"]), int(info["tcpi_bytes_received"]), now)
                    slowest = min(slowest, sent / waited_s) if sent >= least_bytes and waited_s > SAMPLE_S else slowest
            requests.looked_once = True
            time.sleep(SAMPLE_S)
    return {"seen": slowest < float("inf"), "rate_bytes_per_s": round(slowest, 1) if slowest < float("inf") else -1.0}


class Requests:
    """Per connection: bytes sent since the last answer, and since when. Pure bookkeeping over what was seen.

    What was sent between two looks in which an answer came may belong to the old request or the new one; it counts for the
    new one, from the later look on, so that a link is never taken for slower than it is. A connection that appears after the
    first look (`looked_once`) has sent all its bytes since; a relay may have taken them all in before it is seen.
    """

    def __init__(self) -> None:
        self._open: dict[Connection, tuple[int, int, int, float]] = {}
        self.looked_once = False

    def seen(self, key: Connection, acked: int, received: int, now_s: float) -> tuple[int, float]:
        """Bytes of the request under way and seconds since its first were seen; both 0 when there is none."""
        base, last, answered, since_s = self._open.get(key, (0 if self.looked_once else acked, acked, received, now_s))
        if received != answered:
            base, answered, since_s = last, received, now_s
        elif acked == base:
            since_s = now_s
        self._open[key] = (base, acked, answered, since_s)
        return acked - base, now_s - since_s


def longest_wait(dst: str, port: int, enough_s: float, wait_s: float) -> dict[str, Any]:
    """The longest time that a dialler of `dst`:`port` was seen waiting for an answer; stops once it exceeds `enough_s`."""
    longest, deadline = 0.0, time.monotonic() + wait_s
    with DiagSocket() as diag:
        while longest < enough_s and time.monotonic() < deadline:
            for key, info in _connections(diag):
                asked_ms, answered_ms = info["tcpi_last_data_sent"], info["tcpi_last_data_recv"]
                if key[2:] == (dst, port) and info["tcpi_bytes_acked"] > 1 and asked_ms < answered_ms:
                    longest = max(longest, asked_ms / 1000)
            time.sleep(min(SAMPLE_S, enough_s / 10))
    return {"longest_wait_s": longest}


def survivors(dst: str, port: int, age_s: float, wait_s: float) -> dict[str, Any]:
    """Watch the connections dialled to `dst`:`port` until one was seen to end or `wait_s` is over.

    `survivors_count`: how many stood open for longer than `age_s`; `ended_count`: how many were seen and went away;
    `resets_count`: connections of this whole network that a reset ended meanwhile (a short one escapes the eye).
    """
    since: dict[Connection, float] = {}
    old: set[Connection] = set()
    resets, began = _resets(), time.monotonic()
    with DiagSocket() as diag:
        while True:
            now = time.monotonic()
            open_now = {key for key, info in _connections(diag) if key[2:] == (dst, port) and info["tcpi_state"] == ESTABLISHED}
            since = {key: since.get(key, now) for key in since.keys() | open_now}
            old |= {key for key in open_now if now - since[key] > age_s}
            ended, cut = len(since.keys() - open_now), _resets() - resets
            if now - began > wait_s or (now - began > 2 * age_s and (ended or cut)):
                return {"survivors_count": len(old), "ended_count": ended, "resets_count": cut}
            time.sleep(0.005)


def standing(src: str, dst: str, port: int) -> int:
    """How many connections from `src` to `dst`:`port` are established in this network."""
    with DiagSocket() as diag:
        flows = ((key[0], *key[2:]) for key, info in _connections(diag) if info["tcpi_state"] == ESTABLISHED)
        return sum(flow == (src, dst, port) for flow in flows)


def sending_queue(device: str) -> dict[str, Any]:
    """Kind of the root queue of a device of this network, its classes by number, and bytes that they have let through."""
    with IPRoute() as route:
        index = route.link_lookup(ifname=device)[0]
        kinds = [str(queue.get_attr("TCA_KIND")) for queue in route.get_qdiscs(index=index) if queue["parent"] == 0xFFFFFFFF]
        classes = list(route.get_classes(index=index))
    counted = [entry.get_attr("TCA_STATS2").get_attr("TCA_STATS_BASIC")["bytes"] for entry in classes]
    numbers = " ".join(f"{entry['handle']:x}" for entry in classes)
    return {"root_kind": kinds[0] if kinds else "none", "classes": numbers, "class_bytes": int(sum(counted))}


def _connections(diag: DiagSocket) -> list[tuple[Connection, Any]]:
    """Each TCP connection over IPv4 with its tcp_info."""
    found = []
    for entry in diag.get_sock_stats(family=socket.AF_INET, states=ALIVE_STATES, extensions=INFO):
        info = entry.get_attr("INET_DIAG_INFO")
        if info is not None:
            key = (entry["idiag_src"], entry["idiag_sport"], entry["idiag_dst"], entry["idiag_dport"])
            found.append((key, info))
    return found


def _await_flow(count: Callable[[], Counters], wait_s: float) -> tuple[bool, Counters]:
    deadline = time.monotonic() + wait_s
    first = count()
    while time.monotonic() < deadline:
        time.sleep(SAMPLE_S)
        now = count()
        if any(acked > first.get(key, 0) for key, acked in now.items()):
            return True, now
        first = now | first
    return False, first


def _resets() -> int:
    """Connections of this network that a reset has ended since boot (`EstabResets` of /proc/net/snmp)."""
    names, values = (line.split()[1:] for line in Path("/proc/net/snmp").read_text().splitlines() if line.startswith("Tcp:"))
    return int(dict(zip(names, values, strict=True))["EstabResets"])
