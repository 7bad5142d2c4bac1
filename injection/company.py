"""What is in force on a link besides: a proof measures what all faults on it do together, so it must know its company.

What the hands of one run have done is known here; what another run, or another experiment of an agent, does to a link is not.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce

from injection.target import LiveLink

#: How long a proof waits for another fault that is just being put in force or ended on the same link.
SETTLE_S = 5.0
#: A link's packets are those between two addresses, the port being the destination's: so links that share a port are one.
Key = tuple[str, str, int]


@dataclass(frozen=True)
class Treatment:
    """What the packets of a link meet in one direction: a part is lost, in runs of a mean length; the others are late.

    Nothing of it without any value given. `rate_bytes_per_s` 0 = not narrowed.
    """

    loss_ratio: float = 0.0
    burst_packets: float = 1.0
    shortest_s: float = 0.0
    longest_s: float = 0.0
    rate_bytes_per_s: float = 0.0

    @property
    def cuts(self) -> bool:
        """Whether nothing passes."""
        return self.loss_ratio >= 1

    def beside(self, other: Treatment) -> Treatment:
        """Both at once: what passes must pass both, and is late by both; the later of two rates is the one that counts.

        Runs of losses are not longer than both kinds of runs laid end to end, which is what stands here.
        """
        lost, too = self.loss_ratio, other.loss_ratio
        return Treatment(
            loss_ratio=1.0 if 1.0 in (lost, too) else min(1.0, lost + too - lost * too),
            burst_packets=self.burst_packets + other.burst_packets - 1,
            shortest_s=self.shortest_s + other.shortest_s,
            longest_s=self.longest_s + other.longest_s,
            rate_bytes_per_s=other.rate_bytes_per_s or self.rate_bytes_per_s,
        )


class Company:
    """All faults on links that one injector has in force, as they were applied one by one. Safe to share between threads."""

    def __init__(self) -> None:
        self._turn = threading.Condition()
        self._members: dict[str, tuple[Key, Mapping[str, Treatment]]] = {}
        self._changes: Counter[Key] = Counter()
        self._busy: Counter[Key] = Counter()
        self._places: Counter[Key] = Counter()
        self._taken: dict[str, int] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._members

    @contextmanager
    def joining(self, name: str, link: LiveLink, does: Mapping[str, Treatment]) -> Iterator[None]:
        """While a fault is put in force; afterwards it is a member, by direction. Not where that raises."""
        with self._changing(_key(link)):
            with self._turn:
                self._taken[name] = self._places[_key(link)]
                self._places[_key(link)] += 1
            yield
            with self._turn:
                self._members[name] = _key(link), does

    @contextmanager
    def leaving(self, name: str) -> Iterator[None]:
        """While a fault is ended; from then on it is no member. One that is none leaves nothing behind."""
        if name not in self._members:
            yield
            return
        with self._changing(self._members[name][0]):
            yield
            with self._turn:
                key, _ = self._members.pop(name)
                if all(other != key for other, _ in self._members.values()):
                    del self._places[key]

    def moment(self, link: LiveLink) -> int:
        """Tells one state of a link from the next. Waits, but not for long, while it is changing."""
        key = _key(link)
        with self._turn:
            self._turn.wait_for(lambda: not self._busy[key], SETTLE_S)
            return self._changes[key]

    def place(self, name: str) -> int:
        """How many were put in force on its link before one that is joining, since that was last free: it comes behind them."""
        return self._taken.get(name, 0)

    def others(self, name: str, link: LiveLink, way: str) -> Treatment:
        """What all others do to a link together, in one direction (forward, backward)."""
        return _together(does for other, does in self._on(link, way) if other != name)

    def later(self, name: str, link: LiveLink, way: str) -> Treatment:
        """What those do to it that were put in force after this one; of nobody who is no member."""
        present = self._on(link, way)
        places = [place for place, (other, _) in enumerate(present) if other == name]
        return _together(does for _, does in present[places[0] + 1 :]) if places else Treatment()

    def _on(self, link: LiveLink, way: str) -> list[tuple[str, Treatment]]:
        with self._turn:
            return [(name, does[way]) for name, (key, does) in self._members.items() if key == _key(link) and way in does]

    @contextmanager
    def _changing(self, key: Key) -> Iterator[None]:
        with self._turn:
            self._busy[key] += 1
        try:
            yield
        finally:
            with self._turn:
                self._busy[key] -= 1
                self._changes[key] += 1
                self._turn.notify_all()


def _key(link: LiveLink) -> Key:
    return link.src_address, link.dst_address, link.dst_port


def _together(treatments: Iterator[Treatment]) -> Treatment:
    return reduce(Treatment.beside, treatments, Treatment())
