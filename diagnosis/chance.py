"""What a uniform guess would score: the level every number is read against.

A guesser ranks ``n`` candidates in random order, ``m`` of which are right (an answer may be right in more than one way:
either end of a link, any worker of a role, any of several kinds).
"""

from __future__ import annotations

from math import comb


def chance_at(k: int, n: int, m: int) -> float:
    """Probability that at least one of ``m`` right candidates is among the first ``k`` of ``n`` in random order."""
    _check(n, m)
    return 1.0 - comb(n - m, min(k, n)) / comb(n, min(k, n))


def chance_average(k: int, n: int, m: int) -> float:
    """Expected Avg@k: the mean of ``chance_at`` over 1 to ``k``."""
    return sum(chance_at(j, n, m) for j in range(1, k + 1)) / k


def chance_reciprocal_rank(n: int, m: int) -> float:
    """Expected 1 / (rank of the first right candidate) in random order; 0 when none is right."""
    _check(n, m)
    if m == 0:
        return 0.0
    return sum(comb(n - rank, m - 1) / rank for rank in range(1, n - m + 2)) / comb(n, m)


def _check(n: int, m: int) -> None:
    if not 0 <= m <= n or n == 0:
        raise ValueError(f"{m} right candidates of {n}")
