"""The process that owns what is done to the packets of one link, and holds those that are to be late.

A helper process (`children/packets.py`) runs this. It is told, as JSON, `{"table", "ends": [{"host", "rules": [...]}]}`, upon
which it opens all it needs and answers `{}`; then, on its standard input, a number, upon which the rules are put up, one
message a host, and it answers `{"put_up": [...]}`. The number is its place behind others on the same link. A rule is
`{"flow": {...}, "interface": "eth0" | "", "act": "drop" | "reset" | "lose" | "hold", "fate": {...}}`.
Its end, of whatever kind, is the end of the rules: the kernel takes them away. Told to end (SIGTERM, or end of input), it first
lets go what it holds; killed, what it held is lost.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import socket
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

from injection import cut, kernel, netfilter
from injection.channel import Channel, Fate
from injection.netfilter import Flow
from injection.packet_queue import PacketQueue
from injection.virtual.addresses import NETWORK_NAMESPACES

SO_TIMESTAMP = 29
#: A sleeper wakes up late by so much or less; it gets up so much earlier, but spends at most a tenth of its time so.
LATE_S = 100e-6
AWAKE_PART = 10


class Direction:
    """A queue, the channel that its packets go through, and when those that are held are due, in order."""

    def __init__(self, fate: Fate) -> None:
        self.queue = PacketQueue()
        self._channel = Channel(fate, random.Random())  # noqa: S311 - not a secret
        self._held: deque[tuple[float, float, int]] = deque()
        self._last_due = 0.0
        #: What has been held before still bears the kernel's stamp of when it came to this host: delays would not add up.
        self.behind = False

    def take(self, clock_offset_s: float) -> None:
        """Decide about what has come. Nothing overtakes: jitter makes packets late, it does not shuffle them."""
        now = time.monotonic()
        for number, wall_s in self.queue.arrivals():
            if self._channel.loses():
                self.queue.drop(number)
                continue
            came = min(now, wall_s - clock_offset_s) if wall_s and not self.behind else now
            self._last_due = max(self._last_due, came + self._channel.hold_s())
            self._held.append((self._last_due, now, number))

    def let_go(self) -> None:
        """Send on what is due."""
        now, number = time.monotonic(), -1
        while self._held and self._held[0][0] <= now:
            number = self._held.popleft()[2]
        if number >= 0:
            self.queue.accept_up_to(number)

    def wake_at(self) -> float:
        """When to be awake for the first that is due; infinite with nothing held."""
        if not self._held:
            return float("inf")
        due, since, _ = self._held[0]
        return due - min(LATE_S, (due - since) / AWAKE_PART)

    def due(self) -> float:
        """When the first is due."""
        return self._held[0][0] if self._held else float("inf")


class End:
    """What is done on one host: its rules, the socket that owns them, and the directions that are held there."""

    def __init__(self, host: str, rules: list[dict[str, Any]], table: str) -> None:
        if host:
            _enter(NETWORK_NAMESPACES / host)
        self._table = table
        self._owner = netfilter.open_socket()
        self.directions: list[Direction] = []
        self._rules = [self._which(rule) + self._act(rule) for rule in rules]
        self._cut = [Flow(**rule["flow"]) for rule in rules if rule["act"] == "reset"]
        self._diag = cut.open_socket() if self._cut else None
        netfilter.try_out(self._owner, self._rules)

    def _which(self, rule: dict[str, Any]) -> bytes:
        by = netfilter.of_device(rule["interface"]) if rule["interface"] else b""
        return by + netfilter.of_flow(Flow(**rule["flow"]))

    def _act(self, rule: dict[str, Any]) -> bytes:
        if rule["act"] == "hold":
            direction = Direction(Fate(**rule["fate"]))
            self.directions.append(direction)
            return netfilter.to_queue(self._owner, direction.queue.number)
        if rule["act"] == "lose":
            return netfilter.by_chance(rule["fate"]["loss_ratio"]) + netfilter.drop()
        return {"drop": netfilter.drop, "reset": netfilter.reset}[rule["act"]]()

    def put_up(self, place: int) -> dict[str, int]:
        """The rules stand from now on, and connections to be reset are; how many of each."""
        for direction in self.directions:
            direction.behind = place > 0
        netfilter.put_up(self._owner, self._table, self._rules, place)
        aborted = sum(cut.cut(self._diag, flow) for flow in self._cut) if self._diag else 0
        return {"rules_count": len(self._rules), "aborted_count": aborted}

    def take_down(self) -> None:
        """Let go what is held, before and after the rules go, so that nothing is lost and hardly anything overtaken."""
        for direction in self.directions:
            direction.queue.accept_all()
        self._owner.close()
        for direction in self.directions:
            direction.queue.accept_all()


def carry(directions: list[Direction]) -> None:
    """Hold and let go until the input ends."""
    stamps = _ask_for_arrival_times() if directions else None
    by_socket: dict[Any, Direction] = {direction.queue.socket: direction for direction in directions}
    while True:
        wake_at = min((direction.wake_at() for direction in directions), default=float("inf"))
        wait_s = None if wake_at == float("inf") else max(0.0, wake_at - time.monotonic())
        ready = select.select([sys.stdin, *by_socket], [], [], wait_s)[0]
        if sys.stdin in ready:
            break
        for one in ready:
            by_socket[one].take(time.time() - time.monotonic())
        if not ready:
            _stay_awake_until(min(direction.due() for direction in directions))
        for direction in directions:
            direction.let_go()
    if stamps:
        stamps.close()


def _stay_awake_until(due: float) -> None:
    while time.monotonic() < due:
        pass


def _ask_for_arrival_times() -> socket.socket:
    """While such a socket is open the kernel notes when each packet came; without, it is when we woke up."""
    asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    asking.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMP, 1)
    return asking


def _enter(network: Path) -> None:
    descriptor = os.open(network, os.O_RDONLY)
    try:
        kernel.setns(descriptor)
    finally:
        os.close(descriptor)


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def _leave(*_: Any) -> None:
    raise SystemExit(0)


def serve(order: dict[str, Any]) -> None:
    """See the module. What the kernel refuses is an answer `{"error": ...}`, and the end."""
    signal.signal(signal.SIGTERM, _leave)
    kernel.come_first()
    ends: list[End] = []
    try:
        ends += (End(end["host"], end["rules"], order["table"]) for end in order["ends"])
        _say({})
        if line := sys.stdin.readline():
            _say({"put_up": [end.put_up(int(line)) for end in ends]})
            carry([direction for end in ends for direction in end.directions])
    except OSError as error:
        _say({"error": str(error)})
    finally:
        for end in ends:
            end.take_down()
