"""Sample the job's processes and their hosts into the metrics table: ``python -m telemetry.sampler SPEC.json``.

One process of its own: it starts before the job, follows components as their registration files come, change and go, and lives
on when the job dies. It ends on SIGTERM, SIGINT or when the stop file appears, flushes, and exits with 0; with 1 when the table
cannot be written.
"""

from __future__ import annotations

import logging
import resource
import signal
import sys
import threading
import time
from pathlib import Path

from storage.beats import Beats, Series
from storage.schemas import METRICS
from storage.writer import TableWriteError, TableWriter
from telemetry.host import HOST_METRICS, HostProbe
from telemetry.network import NETWORK_METRICS, NetworkProbe
from telemetry.process import MEMORY_METRICS, PROCESS_METRICS, ProcessProbe
from telemetry.registry import Registered, RegistryWatch
from telemetry.sources import MACHINE, Metrics
from telemetry.spec import SOURCES, SamplerSpec, load_spec

MISSED = ("sampler_missed_ticks", "count")
AVAILABLE = ("source_available", "flag")

logger = logging.getLogger("sampler")


class Rows:
    """The samples of one tick: which series, in order, and a value for each of their metrics."""

    def __init__(self) -> None:
        self.series: list[Series] = []
        self.values: list[float | None] = []

    def add(self, host: str, component: str, metrics: Metrics, values: list[float | None]) -> None:
        """One row per metric."""
        self.series.append((host, component, metrics))
        self.values += values


class Sampler:
    """Holds a probe for each component, each host and the machine; `sample` reads them all once."""

    def __init__(self, spec: SamplerSpec) -> None:
        self.spec = spec
        self._watch = RegistryWatch(spec.registry)
        self._machine = HostProbe()
        self._processes: dict[str, tuple[Registered, ProcessProbe]] = {}
        self._networks: dict[str, NetworkProbe] = {}
        self._sources = {name: SOURCES[name](spec) for name in spec.sources}
        self._lacks: dict[str, str] = {}
        self._series: list[Series] = []
        self._next_slow = 0.0

    def sample(self, mono_s: float) -> Rows:
        """Read everything now. All share the tick's time; reading takes about a millisecond."""
        self._follow()
        rows = Rows()
        rows.add(MACHINE, MACHINE, HOST_METRICS, self._machine.read(mono_s))
        for host, network in self._networks.items():
            rows.add(host, host, NETWORK_METRICS, network.read(mono_s))
        alive = []
        for entry, probe in self._processes.values():
            values = probe.read(mono_s)
            # The dead have no RSS to miss: only their death is told.
            seen = len(values) if values[0] else 1
            rows.add(entry.host, entry.component, PROCESS_METRICS[:seen], values[:seen])
            if values[0]:
                alive.append((entry, probe))
        self._series = []
        for source in self._sources.values():
            for host, component, metrics, values in source.read(mono_s):
                self._series.append((host, component, metrics))
                rows.add(host, component, metrics, values)
        if mono_s >= self._next_slow:
            self._next_slow = mono_s + self.spec.slow_every_s
            for entry, probe in alive:
                rows.add(entry.host, entry.component, MEMORY_METRICS, probe.read_memory())
            self._say_what_lacks(rows)
        return rows

    def missed(self, ticks: int) -> Rows:
        """Rows for a gap of ``ticks`` samples that were not taken: every series gets one null, so that no line bridges it."""
        rows = Rows()
        rows.add(MACHINE, MACHINE, (*HOST_METRICS, MISSED), [*[None] * len(HOST_METRICS), float(ticks)])
        for host in self._networks:
            rows.add(host, host, NETWORK_METRICS, [None] * len(NETWORK_METRICS))
        for entry, _ in self._processes.values():
            rows.add(entry.host, entry.component, PROCESS_METRICS, [None] * len(PROCESS_METRICS))
        for host, component, metrics in self._series:
            rows.add(host, component, metrics, [None] * len(metrics))
        return rows

    def close(self) -> None:
        """Give all descriptors back."""
        for _, process in self._processes.values():
            process.close()
        for network in self._networks.values():
            network.close()
        for source in self._sources.values():
            source.close()
        self._machine.close()

    def _follow(self) -> None:
        entries = self._watch.changed()
        if entries is None:
            return
        for source in self._sources.values():
            source.follow(entries)
        for component in [name for name, (entry, _) in self._processes.items() if entries.get(name) != entry]:
            self._processes.pop(component)[1].close()
        for component, entry in sorted(entries.items()):
            if component not in self._processes:
                self._processes[component] = (entry, ProcessProbe(entry.pid, entry.start_ticks))
            if entry.host not in self._networks:
                self._look_at_network(entry)

    def _say_what_lacks(self, rows: Rows) -> None:
        """Per source a flag, so that one that this machine does not have is told from one that nobody asked for."""
        lacks = {"pressure": self._machine.lacks, **{name: source.lacks for name, source in self._sources.items()}}
        for name, why in lacks.items():
            rows.add(MACHINE, name, (AVAILABLE,), [0.0 if why else 1.0])
            if why and self._lacks.get(name) != why:
                logger.info("source %s: %s", name, why)
        self._lacks = lacks

    def _look_at_network(self, entry: Registered) -> None:
        network = NetworkProbe(entry.pid)
        if network.opened:
            self._networks[entry.host] = network
        else:
            network.close()


def run(spec: SamplerSpec, stop: threading.Event) -> None:
    """Sample at a fixed beat until told to stop. Raises TableWriteError."""
    sampler, beats = Sampler(spec), Beats()
    period_s = 1.0 / spec.hz
    with TableWriter(spec.out, METRICS, writer="sampler", waiting=beats.take) as writer:
        due = time.monotonic()
        while not stop.wait(max(0.0, due - time.monotonic())) and not (spec.stop and spec.stop.exists()):
            late = int((time.monotonic() - due) / period_s)
            if late:
                gap = sampler.missed(late)
                beats.add(time.time() - (time.monotonic() - due), due, gap.series, gap.values)
                due += late * period_s
            wall_s, mono_s = time.time(), time.monotonic()
            now = sampler.sample(mono_s)
            beats.add(wall_s, mono_s, now.series, now.values)
            writer.check()
            due += period_s
    sampler.close()


def main(argv: list[str]) -> int:
    """The program; returns its exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # five descriptors a process
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        run(load_spec(Path(argv[0])), stop)
    except TableWriteError as error:
        logger.error("%s", error)  # noqa: TRY400 - the sentence is the message
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
