"""Workers against the others of their role: who is unlike them in two steps in a row."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np

from report.peers import told_peers, unlike_peers


def rows(workers: int = 4, steps: int = 12, slow: dict[tuple[int, int], float] | None = None) -> list[dict]:
    """Times of a call of some workers, alike but for chance; ``slow``: (rank, step) -> times as long."""
    dice = np.random.default_rng(11)
    return [
        {
            "step": step,
            "component": f"rollout{rank}",
            "stage": "rollout",
            "metric": "rpc/generate/latency_s",
            "unit": "s",
            "value": float(np.exp(dice.normal(0.0, 0.05))) * (slow or {}).get((rank, step), 1.0),
        }
        for step in range(steps)
        for rank in range(workers)
    ]


def test_who_is_slow_for_some_steps_is_told_with_them() -> None:
    """One worker three times as slow in four steps: it, those steps, its figure and the others'; nobody else."""
    (found,) = unlike_peers(rows(slow={(2, step): 3.0 for step in (5, 6, 7, 8)}))
    assert (found.component, found.metric, found.first_step, found.last_step) == ("rollout2", "rpc/generate/latency_s", 5, 8)
    assert 2.0 < found.value / found.peers_mean < 4.0
    assert told_peers([asdict(found)]).startswith("rollout2 rpc/generate/latency_s 3")


def test_one_step_is_chance() -> None:
    """Slow in single steps, however often: nobody is told; two stretches are told one by one."""
    assert unlike_peers(rows(slow={(2, step): 3.0 for step in (2, 5, 8)})) == []
    found = unlike_peers(rows(slow={(1, step): 3.0 for step in (2, 3, 7, 8, 9)}))
    assert [(one.component, one.first_step, one.last_step) for one in found] == [("rollout1", 2, 3), ("rollout1", 7, 9)]


def test_too_few_workers_cannot_be_compared() -> None:
    """With three of a role it cannot be told; nor of samples that belong to no step, or are missed."""
    assert unlike_peers(rows(workers=3, slow={(2, 5): 9.0, (2, 6): 9.0})) is None
    assert unlike_peers([{**row, "step": -1} for row in rows()]) is None
    assert unlike_peers([{**row, "value": None} for row in rows()]) is None
    assert unlike_peers([]) is None and told_peers(None) == "cannot tell: no role has 4 workers"
    assert told_peers([]) == "no worker was unlike the others of its role in two steps in a row"
