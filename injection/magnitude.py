"""Magnitudes that follow the job's own time-outs: a number, or one of two sentences over `timeout(NAME)` and `shard_bytes`.

    1.3 x timeout(stop_job)                            seconds
    shard_bytes / (1.5 x timeout(update_weights))      bytes a second

A fault that races a time-out is written as a multiple of it, so that it still wins when every duration is scaled down.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

FACTOR = r"(?P<factor>\d+(?:\.\d+)?)"
TIMES = rf"{FACTOR}\s*x\s*timeout\(\s*(?P<timeout>[a-z_]+)\s*\)"
MULTIPLE = re.compile(rf"\s*{TIMES}\s*")
RATE = re.compile(rf"\s*shard_bytes\s*/\s*\(\s*{TIMES}\s*\)\s*")
FORMS = "a number, '<factor> x timeout(<name>)', 'shard_bytes / (<factor> x timeout(<name>))'"


@dataclass(frozen=True)
class Magnitude:
    """A parsed sentence: `factor x timeout`, in seconds, or shard bytes over it when `per_shard`."""

    factor: float
    timeout: str
    per_shard: bool

    def value(self, timeout_s: Callable[[str], float], shard_bytes: float) -> float:
        """The number: seconds, or bytes a second. `timeout_s` gives the scaled time-out of a name."""
        seconds = self.factor * timeout_s(self.timeout)
        return shard_bytes / seconds if self.per_shard else seconds


def parse(text: str) -> Magnitude:
    """Read a sentence. Raises ValueError naming the forms there are."""
    for pattern, per_shard in ((MULTIPLE, False), (RATE, True)):
        found = pattern.fullmatch(text)
        if found and float(found["factor"]) > 0:
            return Magnitude(float(found["factor"]), found["timeout"], per_shard)
    raise ValueError(f"{text!r} is not a magnitude; allowed: {FORMS}")


def evaluate(value: float | str, unit: str, timeout_s: Callable[[str], float], shard_bytes: float) -> float:
    """A number as it is; a sentence's value, seconds turned into the unit that the key's name ends with (`ms` or `s`)."""
    if not isinstance(value, str):
        return value
    magnitude = parse(value)
    seconds_to_unit = 1000.0 if unit == "ms" and not magnitude.per_shard else 1.0
    return magnitude.value(timeout_s, shard_bytes) * seconds_to_unit
