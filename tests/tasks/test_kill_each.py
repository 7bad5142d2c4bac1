"""kill -9 of the lab's own processes during four faults at once leaves nothing; how it is done is in bench/kill_each.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bench.kill_each import OF_PLACE, REPLACED, as_oneself, good, measure, names

pytestmark = [pytest.mark.job, pytest.mark.timeout(1800)]

SHORT = [("virtual-cluster", "lab"), ("virtual-cluster", "injector"), ("plain-host", "lab and keeper")]
ALL = [(place, killed) for place in OF_PLACE for killed in names(place) if (place, killed) not in SHORT]


def nothing_is_left(place: str, killed: str, home: Path, folder: Path, run: Callable) -> None:
    """One run, one kill: gone in time, for good, and the run never counts."""
    cell = measure(place, killed, home, folder, run)
    assert good(cell), cell
    if "lab" not in killed and killed not in REPLACED:
        assert cell.exit_code == 1 and cell.said not in ("", "valid")


@pytest.mark.parametrize(("place", "killed"), SHORT)
def test_an_ordinary_users_killed_lab_leaves_nothing(place: str, killed: str, scratch: Path, ordinary_user: Callable) -> None:
    """Lab, injector, or lab and keeper at once, killed by -9 while faults are in force: nothing of the run remains."""
    nothing_is_left(place, killed, scratch / "home" / "lab", scratch, ordinary_user)


@pytest.mark.long
@pytest.mark.parametrize(("place", "killed"), ALL)
def test_no_killed_process_leaves_anything(place: str, killed: str, scratch: Path) -> None:
    """Each of the lab's processes in turn, and those that save one another at once: nothing of the run remains."""
    nothing_is_left(place, killed, scratch / "home", scratch, as_oneself)
