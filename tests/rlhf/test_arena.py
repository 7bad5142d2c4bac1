"""The device that two workers of a node share."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlhf.arena import MIB, Allocation, ArenaOutOfMemoryError, DeviceArena
from rlhf.stats import StatsTracker

CAP = 4 * MIB
PAGE = 4096


@pytest.fixture
def stats(tmp_path: Path) -> Iterator[StatsTracker]:
    with StatsTracker(tmp_path / "stats.jsonl", "train0") as opened:
        yield opened


def _arena(tmp_path: Path, stats: StatsTracker, owner: str = "train0") -> DeviceArena:
    return DeviceArena(tmp_path / "node0", CAP, owner, stats)


def _figures(tmp_path: Path) -> dict[str, float]:
    """The last value of each metric."""
    return {line["metric"]: line["value"] for line in map(json.loads, (tmp_path / "stats.jsonl").read_text().splitlines())}


def test_the_file_is_there_in_full(tmp_path: Path, stats: StatsTracker) -> None:
    """The cap is taken from the file system when the arena is made, not when it is used."""
    _arena(tmp_path, stats)
    assert (tmp_path / "node0").stat().st_blocks * 512 >= CAP


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(sizes=st.lists(st.integers(1, CAP), max_size=12), freed=st.sets(st.integers(0, 11)))
def test_used_is_the_sum_of_live_allocations(tmp_path: Path, stats: StatsTracker, sizes: list[int], freed: set[int]) -> None:
    """Whatever is allocated and freed in whatever order: no two overlap, used is their sum, and the cap holds."""
    arena, live, used = _arena(tmp_path, stats), {}, 0
    arena.request()
    for number, size in enumerate(sizes):
        pages = -(-size // PAGE) * PAGE
        try:
            live[number] = arena.allocate(size, 0.0)
        except ArenaOutOfMemoryError:
            assert used + pages > CAP or len(live) > 1, "only a full or a torn arena refuses"
        else:
            used += pages
        if number in freed and number in live:
            live.pop(number).free()
            used -= pages
        assert arena.used_bytes() == used <= CAP
    for allocation in live.values():
        allocation.free()
    assert arena.used_bytes() == 0
    arena.close()


def test_asking_who_wants_the_device_bears_that_he_just_took_it(tmp_path: Path, stats: StatsTracker) -> None:
    """The request goes away at any moment; who looks at it sees a name or nobody, and never fails."""
    asker, looker = _arena(tmp_path, stats, "rollout0"), _arena(tmp_path, stats)

    def take_turns() -> None:
        for _ in range(2000):
            asker.request()
            (tmp_path / "node0.request").unlink()

    turns = threading.Thread(target=take_turns)
    turns.start()
    while turns.is_alive():
        assert looker.wanted_by() in ("", "rollout0")
    turns.join()


def test_beyond_the_cap_is_out_of_memory_with_figures(tmp_path: Path, stats: StatsTracker) -> None:
    """Too much is tried several times, then refused with used and cap; attempts and failures are recorded."""
    arena = _arena(tmp_path, stats)
    arena.request()
    with arena.allocate(3 * MIB, 0.0), pytest.raises(ArenaOutOfMemoryError) as caught:
        arena.allocate(2 * MIB, 0.2)
    text = str(caught.value)
    assert "tried to allocate 2.0 MiB, 3.0 of 4.0 MiB in use, lease held by train0 for" in text
    figures = _figures(tmp_path)
    assert figures["arena_failed_count"] == figures["arena_attempts_count"] >= 2
    assert (figures["arena_used_bytes"], figures["arena_lease_count"], figures["arena_given_up_count"]) == (3 * MIB, 1, 1)
    assert figures["arena_wait_s"] >= 0.2
    arena.allocate(4 * MIB, 0.0).free()


def test_without_the_lease_is_out_of_memory(tmp_path: Path, stats: StatsTracker) -> None:
    """An empty arena refuses who did not ask for the lease, and who asked while another holds it; the holder is named."""
    train, rollout = _arena(tmp_path, stats), _arena(tmp_path, stats, "rollout0")
    with pytest.raises(ArenaOutOfMemoryError, match="lease free, not asked for"):
        train.allocate(PAGE, 0.0)
    train.request()
    assert rollout.wanted_by() == "train0"
    train.allocate(PAGE, 0.0).free()
    rollout.request()
    with pytest.raises(ArenaOutOfMemoryError, match=r"0\.0 of 4\.0 MiB in use, lease held by train0 for"):
        rollout.allocate(PAGE, 0.0)
    assert train.wanted_by() == "rollout0"
    *_, owner, held = map(json.loads, (tmp_path / "stats.jsonl").read_text().splitlines())
    assert (owner["component"], owner["metric"], owner["value"]) == ("train0", "arena_lease_count", 1), "told by who waits"
    assert (held["component"], held["metric"]) == ("train0", "arena_lease_held_s")
    train.release()
    assert _figures(tmp_path)["arena_lease_held_s"] > 0
    time.sleep(0.05)
    rollout.allocate(PAGE, 0.0).free()
    assert _figures(tmp_path)["arena_lease_wait_s"] >= 0.05, "since it asked"
    assert (rollout.holder()[0], train.holder()[0], train.wanted_by()) == ("rollout0", "rollout0", "")


HOLD = """
import fcntl, os, struct, sys
path = sys.argv[1]
file, lease = os.open(path, os.O_RDWR), os.open(path + ".lease", os.O_RDWR)
fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 1 << 20, 0))
os.pwrite(file, b"spoiled", 2 << 20)
fcntl.flock(lease, fcntl.LOCK_EX)
print("holding", flush=True)
sys.stdin.read()
"""


def test_a_strange_process_can_take_memory_lease_and_bytes(tmp_path: Path, stats: StatsTracker) -> None:
    """A program that knows nothing of this one takes a range, writes into another's and holds the lease; its end frees all."""
    arena, pipe = _arena(tmp_path, stats), subprocess.PIPE
    with Allocation(tmp_path / "node0", 2 * MIB, MIB) as mine:
        stranger = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "node0")], stdin=pipe, stdout=pipe, text=True)
        assert stranger.stdout is not None and stranger.stdout.readline() == "holding\n"
        assert mine.buffer[:7] == b"spoiled"
        assert arena.used_bytes() == 2 * MIB
        arena.request()
        with pytest.raises(ArenaOutOfMemoryError, match="lease held by another process"):
            arena.allocate(PAGE, 0.0)
        stranger.communicate(timeout=30)
        arena.allocate(PAGE, 5.0).free()
        assert arena.used_bytes() == MIB
    arena.close()
