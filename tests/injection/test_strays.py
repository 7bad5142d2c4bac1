"""What is left when lab and keeper were both killed, and what must never be taken for it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from injection import strays
from injection.keeper_client import make_scratch

HOLDER = """
import sys
from pathlib import Path
from injection import strays
strays.hold(Path(sys.argv[1]))
print(flush=True)
input()
"""


@pytest.fixture(autouse=True)
def own_folders(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A parent folder of this test's own: other places of this machine are none of its business."""
    monkeypatch.setattr(strays, "PARENTS", (str(scratch),))


@pytest.fixture
def place() -> Iterator[tuple[Path, subprocess.Popen[bytes], subprocess.Popen[bytes]]]:
    """A place's folder, the process that holds it, and a process that bears its mark."""
    folder = make_scratch()
    pipe = subprocess.PIPE
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdin=pipe, stdout=pipe)
    assert holder.stdout is not None
    holder.stdout.readline()
    marked = subprocess.Popen(["sleep", "600"], env={**os.environ, strays.MARK: str(folder)}, start_new_session=True)
    yield folder, holder, marked
    for process in (holder, marked):
        process.kill()
        process.wait()


def test_a_place_is_left_alone_until_its_holder_is_dead(place) -> None:
    """While the holder lives nothing is touched; killed by -9, the marked process and the folder go, once."""
    folder, holder, marked = place
    assert strays.end_abandoned() == []
    assert marked.poll() is None
    holder.kill()
    holder.wait()
    assert strays.end_abandoned() == [folder]
    assert marked.wait(10) == -9
    assert not folder.exists()
    assert strays.end_abandoned() == []


def test_a_folder_that_only_bears_the_name_is_left_alone(scratch: Path) -> None:
    """Without the lab's lock in it, open to others, or behind a link: not ours, whatever it is called."""
    plain, shared, behind = scratch / "site-backup", scratch / "site-shared", scratch / "elsewhere"
    for folder in (plain, shared, behind):
        folder.mkdir(mode=0o700)
    (shared / strays.HOLD).touch()
    shared.chmod(0o755)
    (behind / strays.HOLD).touch()
    (scratch / "site-link").symlink_to(behind)
    assert strays.end_abandoned() == []
    assert plain.exists() and shared.exists() and behind.exists()


def test_every_marked_process_is_ended(scratch: Path) -> None:
    """Also one that was started by another while that one was being killed."""
    fork = "while :; do sleep 600 & sleep 0.01; done"
    parent = subprocess.Popen(["sh", "-c", fork], env={**os.environ, strays.MARK: str(scratch)}, start_new_session=True)
    while len(strays.marked(scratch)) < 5:
        assert parent.poll() is None
    strays.end_strays(scratch)
    parent.wait(10)
    assert strays.marked(scratch) == []
