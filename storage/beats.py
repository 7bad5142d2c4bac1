"""Samples as they are taken, beat by beat, and as one batch of table `metrics` when they are to be stored.

A beat is one list of values in the order of its series, and its series are mostly those of the beat before. So a beat is
only remembered, and its texts are numbered once for as long as they are sampled. Arrow, whose calls cost most when nothing of
it is in the caches, is called once a flush.
"""

from __future__ import annotations

from collections import deque

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from storage.encoding import in_memory
from storage.schemas import METRICS

#: Metrics with their units.
Metrics = tuple[tuple[str, str], ...]
#: Host, component, and what is told of it.
Series = tuple[str, str, Metrics]
Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int32]

_HELD = in_memory(METRICS)
_TEXTS = ("host", "component", "metric", "unit")
_NO_VALUES: Floats = np.empty(0)
_NO_NUMBERS: Numbers = np.empty((len(_TEXTS), 0), np.int32)
#: Beats with what is looked at seldom, beats without, and as many from before a process came or went.
_REMEMBERED = 4


class Beats:
    """What was sampled and is not stored yet. One thread may add while another takes."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[float, float, list[Series], Floats]] = deque()
        self._known: deque[tuple[list[Series], Numbers]] = deque(maxlen=_REMEMBERED)
        self._texts = [_Texts() for _ in _TEXTS]

    def add(self, wall_s: float, mono_s: float, series: list[Series], values: list[float | None]) -> None:
        """A value for each metric of each series; None = missed, and so is what is no number. ``series`` may not be changed."""
        self._waiting.append((wall_s, mono_s, series, np.array(values, np.float64)))

    def take(self) -> pa.Table:
        """Everything that was added since the last time. A sample belongs to no step and no stage."""
        beats = [self._waiting.popleft() for _ in range(len(self._waiting))]
        sizes = [len(values) for _, _, _, values in beats]
        values = np.concatenate([_NO_VALUES, *(values for _, _, _, values in beats)])
        numbers = np.concatenate([_NO_NUMBERS, *(self._numbered(series) for _, _, series, _ in beats)], axis=1)
        columns = {name: texts.column(row) for name, texts, row in zip(_TEXTS, self._texts, numbers, strict=True)}
        for at, name in enumerate(("wall_s", "mono_s")):
            columns[name] = pa.array(np.repeat(np.array([beat[at] for beat in beats], np.float64), sizes))
        columns["step"] = pa.array(np.full(len(values), -1, np.int32))
        columns["stage"] = _Texts("").column(np.zeros(len(values), np.int32))
        columns["value"] = pa.array(values, from_pandas=True)  # what is no number is null
        return pa.Table.from_arrays([columns[name] for name in _HELD.names], schema=_HELD)

    def _numbered(self, series: list[Series]) -> Numbers:
        """A row of numbers for each of `_TEXTS`, one for each sample."""
        for known, numbers in self._known:
            if known == series:
                return numbers
        samples = [(host, component, *metric) for host, component, metrics in series for metric in metrics]
        rows = [[texts.number(sample[at]) for sample in samples] for at, texts in enumerate(self._texts)]
        numbers = np.array(rows, np.int32)
        self._known.appendleft((series, numbers))
        return numbers


class _Texts:
    """The texts of a column, each of them once."""

    def __init__(self, *texts: str) -> None:
        self._numbers = {text: number for number, text in enumerate(texts)}
        self._array = pa.array(texts, pa.string())

    def number(self, text: str) -> int:
        return self._numbers.setdefault(text, len(self._numbers))

    def column(self, numbers: Numbers) -> pa.DictionaryArray:
        if len(self._array) < len(self._numbers):
            self._array = pa.array(self._numbers, pa.string())
        return pa.DictionaryArray.from_arrays(pa.array(numbers), self._array)
