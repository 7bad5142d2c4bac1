"""A CUDA device shared by turns, as far as it can be held without one: the lease, giving back, and running out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from rlhf.arena import ArenaOutOfMemoryError
from rlhf.card import CardArena
from rlhf.colocation import move_into, move_out
from rlhf.stats import StatsTracker

TOTAL = 1 << 20


@pytest.fixture
def card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CardArena]:
    """Main memory in the place of a device's."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (TOTAL // 4, TOTAL))
    with StatsTracker(tmp_path / "stats.jsonl", "train0") as stats:
        arena = CardArena(tmp_path / "node0", torch.device("cpu"), "train0", stats)
        yield arena
        arena.close()


def test_state_goes_and_comes_and_its_memory_is_given_back(card: CardArena) -> None:
    """Values survive both ways; bytes that were freed are gone even where a view of them is kept."""
    state = [torch.arange(5.0), torch.eye(3)]
    card.request()
    allocation = card.allocate(4096, 0.0)
    move_into(state, allocation)
    kept = state[0].data
    move_out(state)
    allocation.free()
    assert state[0].equal(torch.arange(5.0)) and state[1].equal(torch.eye(3))
    assert kept.untyped_storage().size() == 0


def test_a_full_device_is_out_of_memory_with_figures(card: CardArena, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the device refuses is tried again, then given up; the text says what is in use, and by whose turn."""

    def refuse(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    card.request()
    monkeypatch.setattr(torch, "empty", refuse)
    with pytest.raises(ArenaOutOfMemoryError, match=r"0\.8 of 1\.0 MiB in use, lease held by train0"):
        card.allocate(4096, 0.1)


def test_without_the_turn_nothing_is_allocated(card: CardArena) -> None:
    """Who has not asked does not get the device, however much of it is free."""
    with pytest.raises(ArenaOutOfMemoryError, match="lease free, not asked for"):
        card.allocate(4096, 0.1)
