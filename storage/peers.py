"""Workers against their peers: who differs from all others of its role, at the same step. No healthy run is needed for that.

Ranks that differ by what they are (rank 0 writes the checkpoint) do so at every step: only metrics in which ranks are alike can
call one ill. How often healthy workers are called so is measured by `bench/alarms.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from storage.intervals import p_values

#: With fewer workers one against the rest tells nothing.
LEAST = 4


def peer_p_values(values: Mapping[str, float]) -> dict[str, float]:
    """Of each worker, how likely a value so far from those of all the others is; nothing for fewer than `LEAST` workers."""
    if len(values) < LEAST:
        return {}
    rest = {worker: [value for other, value in values.items() if other != worker] for worker in values}
    return {worker: p_values([value], rest[worker])[0] for worker, value in values.items()}


def lasts(alarms: Sequence[bool], k: int, m: int) -> bool:
    """Whether at least k of some m in a row are alarms; with fewer than m of them, of all there are."""
    return any(sum(alarms[start : start + m]) >= k for start in range(max(1, len(alarms) - m + 1)))
