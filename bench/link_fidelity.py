"""How exactly faults on links do what was asked: delay, jitter, correlation, loss, 64 links at once; what armed and idle costs.

    python bench/link_fidelity.py PLACE [PART ...]

PLACE is virtual-cluster (with each backend that the kernel has), two-hosts (the same as root on two networks of the machine,
with real-time priority) or plain-host (by the proxy). Prints tables in Markdown.
A delay is the time from sendto to the return of recv of a datagram in another network: the probe's own waking up is error.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scipy import stats

from injection import echo, kernel
from injection.capability import BACKENDS
from injection.fault import Context
from injection.measure import ask_here
from injection.place import open_place
from injection.preflight import absent_backends
from injection.registry import make_fault
from injection.target import LiveLink
from storage.records import FaultKind
from tests.injection.ends import Caller, Server
from tests.injection.grounds import of_cluster, of_proxy, two_hosts

DELAYS_MS = (1, 2, 5, 10, 20, 50, 100, 200, 500)
COUNT, GAP_S = 400, 0.005
#: Jitter that leaves packets in order at the gap it is measured with, so that holding the order does not narrow it.
JITTER = {"delay_ms": 10.0, "jitter_ms": 2.0}
JITTER_COUNT, JITTER_GAP_S = 2500, 0.0045
LOSSES = ((0.01, 0.0), (0.05, 0.0), (0.2, 0.0), (0.05, 5.0))
LOSS_COUNT, LOSS_GAP_S = 20_000, 0.0001
LINKS, LINKS_DELAY_MS = 64, 20.0
FIRINGS = 60
IDLE_ROUNDS, IDLE_COUNT, IDLE_BYTES = 12, 1000, 64 << 20


def load() -> None:
    """Who else is busy on this machine: without it no figure below means anything."""
    print(f"\nload average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", flush=True)


def row(*cells: object) -> None:
    """One line of a table."""
    print("|", " | ".join(str(cell) for cell in cells), "|", flush=True)


def table(*heads: str) -> None:
    """The head of one."""
    print()
    row(*heads)
    row(*("---" for _ in heads))


def spread(errors: list[float]) -> tuple[str, str, str]:
    """Mean, p99 and worst of errors in ms; the worst is the one farthest from zero."""
    ordered = sorted(errors, key=abs)
    return f"{statistics.fmean(errors):+.3f}", f"{ordered[len(ordered) * 99 // 100]:+.3f}", f"{ordered[-1]:+.3f}"


def ratio(found: list[float]) -> str:
    """The geometric mean of ratios, and its 95 % interval."""
    logs = [math.log(one) for one in found]
    middle, off = statistics.fmean(logs), stats.t.ppf(0.975, len(logs) - 1) * statistics.stdev(logs) / math.sqrt(len(logs))
    return f"{math.exp(middle):.3f} ({math.exp(middle - off):.3f} to {math.exp(middle + off):.3f})"


class Bench:
    """One link of a place and its backends."""

    def __init__(self, ground: dict[str, Any]) -> None:
        self.link = LiveLink(**ground["link"])
        self.proxy_api = ground["proxy_api"]
        if not self.proxy_api:
            Server(self.link.dst_host, self.link.dst_address, self.link.dst_port)

    @contextmanager
    def fault(self, kind: str, backend: str, params: dict[str, Any], *, apply: bool = True) -> Iterator[Any]:
        """The fault, in force or only armed, and gone afterwards."""
        made = make_fault(kind, params, Context(self.link, backend, ask_here, self.proxy_api))
        made.arm()
        undo = made.undo()
        try:
            if apply:
                made.apply()
            yield made
        finally:
            made.revert(undo)

    def took_ms(
        self, count: int = COUNT, gap_s: float = GAP_S, wait_s: float = 2.0, link: LiveLink | None = None
    ) -> list[float]:
        """One-way times of datagrams; through a proxy, round trips of one byte."""
        if self.proxy_api:
            caller = Caller(self.link)
            return [1000 * one for one in (caller.once_s() for _ in range(count))]
        to = link or self.link
        ends = echo.Path(to.src_host, to.src_address, to.dst_host, to.dst_address, to.dst_port)
        return [
            1000 * one for one in echo.one_way(ends, backward=False, count=count, gap_s=gap_s, wait_s=wait_s) if one is not None
        ]

    def delays(self, backend: str) -> None:
        """Asked and achieved, beside each other."""
        table(f"{backend}: delay asked, ms", "n", "mean error, ms", "p99", "worst")
        row("0 (no fault)", COUNT, *spread(self.took_ms()))
        for asked in DELAYS_MS:
            count = COUNT if not self.proxy_api or asked < 50 else 40
            with self.fault("network-delay", backend, {"delay_ms": asked}):
                took = self.took_ms(count)
            row(asked, len(took), *spread([one - asked for one in took]))

    def jitter(self, backend: str) -> None:
        """Spread and correlation of consecutive packets."""
        table(f"{backend}: jitter", "n", "spread asked, ms", "achieved", "off", "correlation asked", "achieved")
        for distribution, correlation in (("uniform", 0.0), ("uniform", 0.5), ("normal", 0.0), ("normal", 0.8)):
            params = {**JITTER, "distribution": distribution, "correlation_ratio": correlation}
            if distribution == "normal":
                params["jitter_ms"] /= 3  # so that the order still holds itself
            with self.fault("network-delay", backend, params):
                took = self.took_ms(JITTER_COUNT, JITTER_GAP_S)
            asked = params["jitter_ms"] / (math.sqrt(3) if distribution == "uniform" else 1)
            got, follows = statistics.pstdev(took), statistics.correlation(took[:-1], took[1:])
            row(
                distribution,
                len(took),
                f"{asked:.3f}",
                f"{got:.3f}",
                f"{100 * (got / asked - 1):+.1f} %",
                correlation,
                f"{follows:+.3f}",
            )

    def losses(self, backend: str) -> None:
        """Counted at the receiver."""
        table(f"{backend}: loss asked", "mean burst asked", "sent", "lost", "99 % interval", "mean burst seen")
        for part, burst in LOSSES:
            params = {"loss_ratio": part, "burst_packets": burst}
            ends = echo.Path(
                *(getattr(self.link, f"{end}_{what}") for end in ("src", "dst") for what in ("host", "address")),
                self.link.dst_port,
            )
            with self.fault("network-loss", backend, params):
                gone = [
                    one is None for one in echo.one_way(ends, backward=False, count=LOSS_COUNT, gap_s=LOSS_GAP_S, wait_s=0.5)
                ]
            runs = sum(one and not before for before, one in zip([False, *gone], gone, strict=False))
            wide = math.sqrt(2 * burst - 1) if burst else 1.0
            low, high = (
                round(LOSS_COUNT * part + wide * (edge - LOSS_COUNT * part))
                for edge in stats.binom.interval(0.99, LOSS_COUNT, part)
            )
            row(part, burst or "-", LOSS_COUNT, sum(gone), f"{low} to {high}", f"{sum(gone) / max(1, runs):.2f}")

    def many(self, backend: str) -> None:
        """64 links at once, each by a fault of its own."""
        links = [replace(self.link, name=f"{self.link.name}{number}", dst_port=9000 + number) for number in range(LINKS)]
        faults = [make_fault("network-delay", {"delay_ms": LINKS_DELAY_MS}, Context(link, backend, ask_here)) for link in links]
        began = time.monotonic()
        for fault in faults:
            fault.arm()
        armed = time.monotonic()
        for fault in faults:
            fault.apply()
        applied = time.monotonic()
        errors = [one - LINKS_DELAY_MS for link in links for one in self.took_ms(50, GAP_S, link=link)]
        for fault in faults:
            fault.revert(fault.undo())
        table(f"{backend}: links at once", "armed in, s", "applied in, ms", "n", "mean error, ms", "p99", "worst")
        row(LINKS, f"{armed - began:.1f}", f"{1000 * (applied - armed):.0f}", len(errors), *spread(errors))

    def applying(self, kind: str, backend: str, params: dict[str, Any]) -> None:
        """How long the trigger's own call takes."""
        took = []
        for _ in range(FIRINGS):
            with self.fault(kind, backend, params, apply=False) as made:
                time.sleep(0.05)
                began = time.perf_counter()
                made.apply()
                took.append(1000 * (time.perf_counter() - began))
        took.sort()
        row(kind, backend, FIRINGS, f"{took[FIRINGS // 2]:.3f}", f"{took[FIRINGS * 99 // 100]:.3f}")

    def idle(self, kind: str, backend: str, params: dict[str, Any]) -> None:
        """Armed against nothing at all, in pairs, each the other way round than the one before."""
        pairs = []
        for number in range(IDLE_ROUNDS):
            found = {armed: self._armed_pace(kind, backend, params, armed) for armed in (number % 2 == 0, number % 2 == 1)}
            pairs.append([found[True][what] / found[False][what] for what in (0, 1)])
        cells = [ratio([pair[what] for pair in pairs]) for what in (0, 1)]
        row(kind, backend, IDLE_ROUNDS, *cells)

    def _armed_pace(self, kind: str, backend: str, params: dict[str, Any], armed: bool) -> tuple[float, float]:
        if not armed:
            return self._pace()
        with self.fault(kind, backend, params, apply=False):
            return self._pace()

    def _pace(self) -> tuple[float, float]:
        """Median round trip in microseconds, and MiB/s."""
        caller = Caller(self.link)
        trips = sorted(caller.once_s() for _ in range(IDLE_COUNT))
        return 1e6 * trips[IDLE_COUNT // 2], caller.carried_bytes_per_s(IDLE_BYTES) * 2 / (1 << 20)


def measure(ground: dict[str, Any], parts: list[str]) -> None:
    """Every part that is asked for, with every backend that is there."""
    kernel.come_first()  # what keeps this process waiting is error
    bench = Bench(ground)
    place = ground["place"]
    absent = frozenset() if bench.proxy_api else absent_backends()
    there = {
        kind: [one for one in backends if one not in absent] for (kind, where), backends in BACKENDS.items() if where == place
    }
    load()
    if absent:
        print(f"this kernel lacks: {', '.join(sorted(absent))}")
    everywhere: dict[str, Callable[[str], None]] = {"delay": bench.delays}
    packets = {"jitter": bench.jitter, "many": bench.many} if not bench.proxy_api else {}
    for part, act in {**everywhere, **packets}.items():
        for backend in there[FaultKind.NETWORK_DELAY] if part in parts else ():
            if part != "jitter" or backend == "nfqueue":
                act(backend)
    for backend in there.get(FaultKind.NETWORK_LOSS, []) if "loss" in parts else ():
        bench.losses(backend)
    tried = {"network-delay": {"delay_ms": 20.0}, "network-loss": {"loss_ratio": 0.1}, "network-partition": {}}
    tried |= {"network-reset": {}, "network-bandwidth": {"rate_bytes_per_s": 1e6}}
    for part, act, heads in (
        ("apply", bench.applying, ("fired", "p50, ms", "p99")),
        ("idle", bench.idle, ("pairs", "round trip: armed / free (95 %)", "bytes a second: armed / free (95 %)")),
    ):
        if part in parts:
            table("kind", "backend", *heads)
            for kind, params in tried.items():
                for backend in there.get(FaultKind(kind), []):
                    act(kind, backend, params)
    load()


def main() -> None:
    """Open the place, measure inside it."""
    if sys.argv[1] == "inside":
        measure(json.loads(sys.argv[2]), sys.argv[3:])
        return
    kind, parts = sys.argv[1], sys.argv[2:] or ["delay", "jitter", "loss", "many", "apply", "idle"]
    if kind == "two-hosts":
        with two_hosts() as made:
            measure(json.loads(made), parts)
        return
    hosts = {"metaserver": "control", "train1": "trainers"} if kind == "virtual-cluster" else {"train1": "localhost"}
    place = open_place(kind, hosts)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        try:
            if kind == "plain-host":
                measure(json.loads(of_proxy(place, log)), parts)
                return
            root = str(Path(__file__).resolve().parents[1])
            argv = [sys.executable, __file__, "inside", of_cluster(place), *parts]
            process = place.spawn(argv, host="", log=log, env={"PYTHONPATH": root})
            told = 0
            while told < len(text := log.read_text()) or process.poll() is None:
                print(text[told:], end="", flush=True)
                told = len(text)
                time.sleep(0.5)
        finally:
            place.close()


if __name__ == "__main__":
    main()
