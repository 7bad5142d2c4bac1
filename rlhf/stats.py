"""Application metrics of one process, as JSON lines that can be followed while they are written."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

logger = logging.getLogger(__name__)

#: A metric's unit by the end of its name, first match; `ratio` stands for every figure without dimension.
UNITS = (
    ("samples_per_s", "samples/s"),
    ("bytes_per_s", "bytes/s"),
    ("_s", "s"),
    ("bytes", "bytes"),
    ("_ratio", "ratio"),
    ("reward", "ratio"),
    ("exact", "ratio"),
    ("loss", "ratio"),
    ("kl", "ratio"),
    ("grad_norm", "ratio"),
    ("samples", "count"),
    ("seqlen", "count"),
    ("retries", "count"),
    ("_count", "count"),
    ("version", "count"),
    ("_code", "code"),
)


def unit_of(metric: str) -> str:
    """The unit of a metric, from its name. Raises ValueError for a name that tells none."""
    if metric.startswith("timeperf/"):
        return "s"
    for ending, unit in UNITS:
        if metric.endswith(ending):
            return unit
    raise ValueError(f"metric {metric!r} tells no unit; names end in {', '.join(ending for ending, _ in UNITS)}")


class StatsTracker:
    """Appends to one file, whole lines at a time. Set `step` as the loop goes on; -1 is before the first."""

    def __init__(self, path: Path, component: str):
        self.component = component
        self.step = -1
        self._file = path.open("a", buffering=1)

    @contextmanager
    def record_timing(self, key: str, stage: str = "") -> Iterator[None]:
        """Record the seconds of the enclosed block as `timeperf/{key}`, also when it fails."""
        start = time.monotonic()
        try:
            yield
        finally:
            self._write(stage, self.step, {f"timeperf/{key}": time.monotonic() - start})

    @contextmanager
    def record_call(self, component: str, name: str, stage: str = "") -> Iterator[None]:
        """Record the enclosed block, one request to ``component``, also when it fails."""
        start, failed = time.monotonic(), True
        try:
            yield
            failed = False
        finally:
            self.call(component, name, {"latency_s": time.monotonic() - start, "failed_count": failed}, stage)

    def call(self, component: str, name: str, figures: Mapping[str, float], stage: str = "") -> None:
        """Record one call of ``component``, its retries included, as `rpc/{name}/...`."""
        self._write(stage, self.step, {f"rpc/{name}/{key}": value for key, value in figures.items()}, component)

    def scalar(self, stage: str, step: int, **values: float) -> None:
        """Record figures by name. One that is not finite is dropped with a warning: it would poison every mean after it."""
        self._write(stage, step, values)

    def scalar_about(self, component: str, stage: str, step: int, **values: float) -> None:
        """Record figures about another component."""
        self._write(stage, step, values, component)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> StatsTracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _write(self, stage: str, step: int, values: Mapping[str, float], component: str = "") -> None:
        """All at once: the file is written to once, and they bear the same time."""
        common = {"wall_s": time.time(), "mono_s": time.monotonic(), "step": step, "stage": stage}
        common |= {"component": component} if component else {}
        begin, told = json.dumps(common)[:-1], []
        for metric, value in values.items():
            unit = unit_of(metric)
            if math.isfinite(value):
                told.append(f'{begin}, "metric": {json.dumps(metric)}, "unit": "{unit}", "value": {float(value)!r}}}\n')
            else:
                logger.warning("%s: %s of step %d is %s and is not recorded", self.component, metric, step, value)
        self._file.write("".join(told))
