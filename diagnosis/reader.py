"""What a diagnoser may ask of one tier of one case, and the metered window that answers from the tier's files.

`Reader` is the interface of every diagnoser: rules, statistics, agents, people. `EvidenceReader` answers it from files; in
the sandbox `diagnosis.channel.ChannelReader` asks the same of an `EvidenceReader` in another process, so that no file of
the case is within the diagnoser's reach and the meter counts all that it ever sees.

Times are seconds since the Unix epoch on the case's own clock, for log records and metrics alike.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

#: ``YYYY-MM-DD HH:MM:SS.mmm LEVEL component: message``: the head of a log record; other lines continue the one above.
HEAD = re.compile(
    r"^(?P<time>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}) (?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL) "
    r"(?P<owner>[\w-]+)(?:\.[\w.]+)?: (?P<text>.*)"
)
#: Logs of the case's own run, and those of healthy run N.
_LOG = re.compile(r"^(?:t[01]|t2/healthy/(?P<run>\d+)/logs)/[\w-]+\.log$")
_SERIES = re.compile(r"^(?P<tier>t[23])/(?:healthy/(?P<run>\d+)/)?metrics/[\w-]+\.jsonl$")


class OutsideTierError(PermissionError):
    """A path that is not a file of this tier was asked for."""


@dataclass(frozen=True)
class LogRecord:
    """One log record: its head line and the lines (a traceback) that continue it.

    ``time`` is the case clock and sorts as text; ``line`` counts from 1.
    """

    path: str
    line: int
    time: str
    level: str
    owner: str
    text: str

    @property
    def logged_as_error(self) -> bool:
        """Of level ERROR or above."""
        return self.level in ("ERROR", "CRITICAL")

    @property
    def is_error(self) -> bool:
        """Logged as an error, or carrying a traceback that nobody logged as one."""
        return self.logged_as_error or "Traceback (most recent call last)" in self.text

    @cached_property
    def time_s(self) -> float:
        """Seconds since the Unix epoch on the case clock."""
        return datetime.fromisoformat(self.time).replace(tzinfo=UTC).timestamp()


@dataclass(frozen=True)
class Metric:
    """A metric that the tier has, its unit, and of which subjects: components, hosts, links ``src>dst:purpose``, others."""

    metric: str
    unit: str
    subjects: tuple[str, ...]


@dataclass(frozen=True)
class Sample:
    """One value of a metric. ``value`` None was missed; ``step`` -1 and ``stage`` empty where it has none."""

    subject: str
    time_s: float
    value: float | None
    step: int = -1
    stage: str = ""


@dataclass
class Meter:
    """Effort spent so far. ``lines`` (of text, or samples) and ``bytes`` count every time they are served."""

    calls: int = 0
    lines: int = 0
    bytes: int = 0
    opened: set[str] = field(default_factory=set)

    def to_dict(self) -> dict[str, int]:
        """Counts as plain JSON types."""
        return {"calls": self.calls, "files": len(self.opened), "lines": self.lines, "bytes": self.bytes}


class Reader(ABC):
    """The questions. Whatever lies outside the tier is OutsideTierError, a bad argument ValueError."""

    @abstractmethod
    def list_files(self) -> list[str]:
        """Paths of the tier's files, sorted."""

    @abstractmethod
    def read(self, path: str, start: int = 1, n: int | None = None) -> list[str]:
        """Lines ``start`` (from 1) to ``start + n - 1`` of a file, without line ends; all that follow when ``n`` is None."""

    @abstractmethod
    def tail(self, path: str, n: int) -> list[str]:
        """The last ``n`` lines of a file."""

    @abstractmethod
    def grep(self, pattern: str, path: str) -> list[tuple[int, str]]:
        """(line number from 1, line) of every line that the regular expression finds; only these count as served."""

    @abstractmethod
    def list_metrics(self, run: str = "") -> list[Metric]:
        """The metrics that the tier has of the case's run, or of healthy run ``run``; none below T2."""

    @abstractmethod
    def query_metric(
        self,
        metric: str,
        subject: str = "",
        t0: float | None = None,
        t1: float | None = None,
        every_s: float | None = None,
        run: str = "",
    ) -> list[Sample]:
        """Samples of one subject ("": of all) from ``t0`` to ``t1``, by time: means over ``every_s`` seconds, or as they are.

        As they are means: as sampled on T3, means over the case's coarse interval on T2. An unknown metric has none.
        """

    def logs(self, run: str = "") -> list[str]:
        """Paths of the logs of the case's own run ("") or of healthy run ``run``, sorted."""
        return [path for path, owner in self._logs() if owner == run]

    def healthy_runs(self) -> list[str]:
        """The healthy runs that come with the case, from T2 up."""
        return sorted({owner for _, owner in self._logs() if owner}, key=int)

    def records(self, path: str) -> list[LogRecord]:
        """The whole file as log records; lines before the first head belong to no record and are left out."""
        return list(_records(path, self.read(path)))

    def _logs(self) -> list[tuple[str, str]]:
        found = ((path, _LOG.match(path)) for path in self.list_files())
        return [(path, match["run"] or "") for path, match in found if match]


class EvidenceReader(Reader):
    """Answers from the files of one tier of the case in ``root``; each tier holds those before it."""

    def __init__(self, root: Path, tier: str) -> None:
        self.root = root.resolve()
        self.tier = tier
        self.meter = Meter()
        self._manifest: dict[str, Any] = json.loads((self.root / "manifest.json").read_text())
        tiers = self._manifest["tiers"]
        if tier not in tiers:
            raise OutsideTierError(f"no tier {tier!r}; this case has {', '.join(sorted(tiers))}")
        self._files = tuple(sorted(tiers[tier]))
        self._read: dict[str, dict[str, list[tuple[str, dict[str, Any]]]]] = {}

    def list_files(self) -> list[str]:
        """See `Reader`."""
        self.meter.calls += 1
        return list(self._files)

    def read(self, path: str, start: int = 1, n: int | None = None) -> list[str]:
        """See `Reader`."""
        if start < 1 or (n is not None and n < 0):
            raise ValueError(f"start counts from 1 and n from 0, got start={start}, n={n}")
        stop = None if n is None else start - 1 + n
        return self._serve(list(islice(self._lines(path), start - 1, stop)))

    def tail(self, path: str, n: int) -> list[str]:
        """See `Reader`."""
        return self._serve(list(self._lines(path))[-n:] if n > 0 else [])

    def grep(self, pattern: str, path: str) -> list[tuple[int, str]]:
        """See `Reader`."""
        wanted = re.compile(pattern)
        hits = [(number, line) for number, line in enumerate(self._lines(path), 1) if wanted.search(line)]
        self._serve([line for _, line in hits])
        return hits

    def list_metrics(self, run: str = "") -> list[Metric]:
        """See `Reader`."""
        self.meter.calls += 1
        found: dict[str, Metric] = {}
        for metric, series in sorted(self._series(run).items()):
            subjects = tuple(sorted({one["subject"] for _, one in series}))
            found[metric] = Metric(metric, series[0][1]["unit"], subjects)
        return list(found.values())

    def query_metric(
        self,
        metric: str,
        subject: str = "",
        t0: float | None = None,
        t1: float | None = None,
        every_s: float | None = None,
        run: str = "",
    ) -> list[Sample]:
        """See `Reader`."""
        if every_s is not None and every_s <= 0:
            raise ValueError(f"every_s is a positive number of seconds, got {every_s}")
        self.meter.calls += 1
        found = self._series(run).get(metric, [])
        chosen = [(path, one) for path, one in found if subject in ("", one["subject"])]
        self.meter.opened |= {path for path, _ in chosen}
        low, high = float("-inf") if t0 is None else t0, float("inf") if t1 is None else t1
        told = [sample for _, one in chosen for sample in _samples(one, self._start_s) if low <= sample.time_s <= high]
        served = sorted(_means(told, every_s) if every_s else told, key=lambda sample: (sample.time_s, sample.subject))
        self.meter.lines += len(served)
        self.meter.bytes += sum(len(f"{s.subject},{s.time_s:.3f},{s.value},{s.step},{s.stage}\n") for s in served)
        return served

    @property
    def _start_s(self) -> float:
        return float(self._manifest["clock"]["start_s"])

    def _series(self, run: str) -> dict[str, list[tuple[str, dict[str, Any]]]]:
        """By metric the finest series that the tier has of a run ("": the case's own), with paths; read when asked for."""
        if run not in self._read:
            found = [(path, match) for path in self._files if (match := _SERIES.match(path)) and (match["run"] or "") == run]
            finest = max((match["tier"] for _, match in found), default="")
            metrics = self._read.setdefault(run, {})
            for path, match in found:
                if match["tier"] == finest:
                    for line in self._file(path).read_text(encoding="utf-8").splitlines():
                        series = json.loads(line)
                        metrics.setdefault(series["metric"], []).append((path, series))
        return self._read[run]

    def _lines(self, path: str) -> Iterator[str]:
        self.meter.calls += 1
        file = self._file(path)
        self.meter.opened.add(path)
        with file.open(encoding="utf-8", errors="replace", newline="\n") as lines:
            for line in lines:
                yield line.rstrip("\n")

    def _file(self, path: str) -> Path:
        file = self.root / path
        if path not in self._files or file.is_symlink() or file.resolve() != file:
            raise OutsideTierError(f"{path!r} is not a file of tier {self.tier}")
        return file

    def _serve(self, lines: list[str]) -> list[str]:
        self.meter.lines += len(lines)
        self.meter.bytes += sum(len(line.encode()) + 1 for line in lines)
        return lines


def _samples(series: dict[str, Any], start_s: float) -> Iterator[Sample]:
    times, values = series["t_s"], series["value"]
    steps, stages = series.get("step") or [-1] * len(times), series.get("stage") or [""] * len(times)
    for t_s, value, step, stage in zip(times, values, steps, stages, strict=True):
        yield Sample(series["subject"], round(start_s + t_s, 3), value, step, stage)


def _means(samples: list[Sample], every_s: float) -> list[Sample]:
    """One sample for each interval and subject, at the interval's beginning; missed ones are left out of the mean."""
    groups: dict[tuple[str, float], list[float]] = {}
    for sample in samples:
        group = groups.setdefault((sample.subject, sample.time_s // every_s * every_s), [])
        group += [] if sample.value is None else [sample.value]
    return [
        Sample(subject, begin, sum(values) / len(values) if values else None) for (subject, begin), values in groups.items()
    ]


def _records(path: str, lines: list[str]) -> Iterator[LogRecord]:
    head: dict[str, Any] = {}
    text: list[str] = []
    for number, line in enumerate(lines, 1):
        match = HEAD.match(line)
        if match:
            if head:
                yield LogRecord(path=path, text="\n".join(text), **head)
            head = {"line": number, "time": match["time"], "level": match["level"], "owner": match["owner"]}
            text = [match["text"]]
        else:
            text.append(line)
    if head:
        yield LogRecord(path=path, text="\n".join(text), **head)
