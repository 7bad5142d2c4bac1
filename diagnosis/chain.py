"""Chains of components from root to symptom: the shortest one in a graph of waits, and how well a told one fits."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import pairwise


def shortest_chain(root: str, symptom: str, waits: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Components from ``root`` to ``symptom``, each awaited by the next; ``waits`` are (waiter, awaited).

    Of chains of equal length the first by name. Empty when the symptom does not wait for the root in any way.
    """
    waiters: dict[str, list[str]] = {}
    for waiter, awaited in sorted(waits):
        waiters.setdefault(awaited, []).append(waiter)
    chains: deque[tuple[str, ...]] = deque([(root,)])
    seen = {root}
    while chains:
        chain = chains.popleft()
        if chain[-1] == symptom:
            return chain
        fresh = [name for name in waiters.get(chain[-1], ()) if name not in seen]
        seen.update(fresh)
        chains.extend((*chain, name) for name in fresh)
    return ()


def chain_f1(told: Sequence[str], true: Sequence[str]) -> float:
    """F1 of the told chain's edges. Where a chain begins counts as an edge, so that a chain of one component has one."""
    told_edges, true_edges = _edges(told), _edges(true)
    common = len(told_edges & true_edges)
    return 2 * common / (len(told_edges) + len(true_edges))


def _edges(chain: Sequence[str]) -> set[tuple[str, str]]:
    return {("", chain[0]), *pairwise(chain)}
