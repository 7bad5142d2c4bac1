"""A share of few cases, with the interval that says how few."""

from __future__ import annotations

from dataclasses import dataclass

from scipy import stats


@dataclass(frozen=True)
class Proportion:
    """`right` of `n`, its 95 % Wilson interval (None for n = 0) and the level that guessing reaches."""

    right: int
    n: int
    chance: float | None = None

    @property
    def share(self) -> float | None:
        """Right / n."""
        return self.right / self.n if self.n else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % Wilson interval."""
        if not self.n:
            return None
        found = stats.binomtest(self.right, self.n).proportion_ci(method="wilson")
        return float(found.low), float(found.high)

    def __str__(self) -> str:
        """``3/5 [0.23, 0.88], chance 0.12``; "no case" for n = 0."""
        if self.interval is None:
            return "no case"
        low, high = self.interval
        chance = f", chance {self.chance:.2g}" if self.chance is not None else ""
        return f"{self.right}/{self.n} [{low:.2f}, {high:.2f}]{chance}"
