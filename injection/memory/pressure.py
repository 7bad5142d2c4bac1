"""How much memory is left to whom, and how fast it comes to that: what every way of doing it is given."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1 << 20
#: Memory held, against what was asked.
TOLERANCE = 0.01


@dataclass(frozen=True)
class Pressure:
    """`headroom_bytes` is left in the end. `ramp_bytes_per_s` is how fast memory is taken, 0 = at once.

    `ballast_bytes` is what a group of the target's own is filled with, over and above the headroom.
    """

    headroom_bytes: int
    ramp_bytes_per_s: float = 0.0
    ballast_bytes: int = 0


def close_to(held: float, asked: float) -> bool:
    """Whether what is held is what was asked, within one per cent."""
    return abs(held - asked) <= TOLERANCE * max(asked, 1.0)
