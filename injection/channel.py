"""What becomes of each packet of a link: how long it is held, or that it is lost. Pure; the dice are given.

Delays are drawn around a mean, uniformly within plus or minus the jitter or normally with the jitter as standard deviation,
never below zero. Consecutive draws are correlated as asked, exactly: normal ones by a first-order process, uniform ones by the
same process seen through its distribution function. Bursts of loss follow Gilbert's two states.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Fate:
    """What a channel does to its packets; all zero = nothing. `burst_packets` is the mean length of a run of lost packets."""

    delay_s: float = 0.0
    jitter_s: float = 0.0
    correlation_ratio: float = 0.0
    distribution: str = "uniform"
    loss_ratio: float = 0.0
    burst_packets: float = 1.0


class Channel:
    """One direction of a link, with its memory."""

    def __init__(self, fate: Fate, dice: random.Random) -> None:
        self._fate = fate
        self._dice = dice
        normal = fate.distribution == "normal"
        self._memory_ratio = fate.correlation_ratio if normal else 2 * math.sin(math.pi / 6 * fate.correlation_ratio)
        self._fresh_ratio = math.sqrt(1 - self._memory_ratio**2)
        self._deviation = dice.gauss(0.0, 1.0)
        self._losing = dice.random() < fate.loss_ratio
        self._end_ratio = 1 / fate.burst_packets
        self._begin_ratio = self._end_ratio * fate.loss_ratio / (1 - fate.loss_ratio) if fate.loss_ratio < 1 else 1.0

    def loses(self) -> bool:
        """Whether the next packet is lost."""
        if not self._fate.loss_ratio:
            return False
        chance = self._dice.random()
        self._losing = chance >= self._end_ratio if self._losing else chance < self._begin_ratio
        return self._losing

    def hold_s(self) -> float:
        """How long the next packet is held."""
        if not self._fate.jitter_s:
            return self._fate.delay_s
        self._deviation = self._memory_ratio * self._deviation + self._fresh_ratio * self._dice.gauss(0.0, 1.0)
        return max(0.0, self._fate.delay_s + self._fate.jitter_s * self._shape())

    def _shape(self) -> float:
        """The deviation in the distribution asked: normal as it is, uniform on [-1, 1] by its distribution function."""
        return self._deviation if self._fate.distribution == "normal" else math.erf(self._deviation / math.sqrt(2))
