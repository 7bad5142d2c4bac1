"""Who waits for whom, as a case tells it."""

from __future__ import annotations

from diagnosis.topology import waits


def test_a_beat_is_nobodys_wait() -> None:
    """A worker that beats to the controller does not wait for it; the controller waits for the worker that it calls."""
    roles = {"controller": "controller", "rollout0": "rollout", "train0": "train"}
    links = [("controller", "rollout0", "rpc"), ("rollout0", "controller", "beat"), ("train0", "controller", "beat")]
    assert waits(roles, links) == [("controller", "rollout0"), ("rollout0", "train0")]
