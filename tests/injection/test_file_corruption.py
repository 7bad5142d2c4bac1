from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from injection import procfs
from injection.fault import Context, RefusedError
from injection.faults.file_corruption import FileCorruption, Params, _damaged, _region
from injection.measure import ask_here
from injection.target import LivePath, LiveProcess

ME = LiveProcess("train0", "trainers", "127.0.0.1", procfs.identity(os.getpid()))


def fault(job: Path, path: str = "recover/latest/model.pt", **params: object) -> FileCorruption:
    one = FileCorruption(Context(LivePath(ME, job / path), "file", ask_here, job=job), Params(**params))
    one.arm()
    return one


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A job's folder with a checkpoint behind a link, as the job has it."""
    (tmp_path / "recover" / "even").mkdir(parents=True)
    (tmp_path / "recover" / "even" / "model.pt").write_bytes(bytes(range(1, 201)))
    (tmp_path / "recover" / "latest").symlink_to("even")
    return tmp_path


@pytest.mark.parametrize(("how", "after"), [("truncate", 50), ("torn", 200), ("flip", 200)])
def test_a_file_is_damaged_where_asked_and_comes_back_whole(job: Path, how: str, after: int) -> None:
    """Each way: the bytes before the place stay, the probe sees the damage, and reverting twice brings every byte back."""
    file = job / "recover" / "even" / "model.pt"
    before = file.read_bytes()
    one = fault(job, how=how, at_percent=25, size_bytes=3)
    undo = one.undo()
    assert not one.verify().ok, "the probe must be able to say no"
    one.apply()
    now = file.read_bytes()
    assert now != before and len(now) == after and now[:50] == before[:50]
    assert one.verify().ok and not FileCorruption.gone(undo, ask_here).ok
    for _ in range(2):
        FileCorruption.revert(undo)
        assert file.read_bytes() == before and FileCorruption.gone(undo, ask_here).ok
    assert not one.verify().ok, "the probe must be able to say no"


def test_what_the_job_has_written_since_stays(job: Path) -> None:
    """A file written anew under the same name, or written over in place, is not touched by undoing."""
    file = job / "recover" / "even" / "model.pt"
    anew = job / "new"
    for rewrite in (lambda: file.write_bytes(b"better"), lambda: anew.write_bytes(b"new") and anew.rename(file)):
        file.write_bytes(bytes(range(1, 201)))
        one = fault(job, how="torn")
        undo = one.undo()
        one.apply()
        rewrite()
        FileCorruption.revert(undo)
        assert file.read_bytes() in (b"better", b"new") and FileCorruption.gone(undo, ask_here).ok


def test_two_on_one_file_are_undone_in_either_order(job: Path) -> None:
    """Damage of two regions: reverting one leaves the other, in whichever order, and both give the file as it was."""
    file = job / "recover" / "even" / "model.pt"
    before = file.read_bytes()
    for order in (0, 1):
        first, second = fault(job, how="flip", at_percent=10), fault(job, how="flip", at_percent=90)
        undos = []
        for one in (first, second):
            undos.append(one.undo())
            one.apply()
        FileCorruption.revert(undos[order])
        assert FileCorruption.gone(undos[order], ask_here).ok and not FileCorruption.gone(undos[1 - order], ask_here).ok
        FileCorruption.revert(undos[1 - order])
        assert file.read_bytes() == before


def test_damage_upon_damage_is_refused(job: Path) -> None:
    """A region that is damaged already, or any of a file cut short, waits until that is undone: no order could undo both."""
    file = job / "recover" / "even" / "model.pt"
    for how in ("torn", "truncate"):
        first = fault(job, how=how)
        undo = first.undo()
        first.apply()
        second = fault(job, how="flip", at_percent=10 if how == "truncate" else 60)
        second.undo()
        with pytest.raises(RefusedError, match="damaged there already"):
            second.apply()
        FileCorruption.revert(undo)
        again = second.undo()
        assert second.apply()["length_bytes"] == 1
        FileCorruption.revert(again)
    assert FileCorruption.gone(again, ask_here).ok and file.is_file()


def test_nothing_to_damage_is_refused(job: Path) -> None:
    """No file, a place that holds zeros already, and a link that leads out of the job's folder are refused."""
    missing = fault(job, "recover/none.pt", how="truncate")
    assert missing.undo() == {} and FileCorruption.gone({}, ask_here).ok
    FileCorruption.revert({})
    with pytest.raises(RefusedError, match="no file"):
        missing.apply()
    (job / "zeros").write_bytes(bytes(100))
    zeros = fault(job, "zeros", how="torn")
    zeros.undo()
    with pytest.raises(RefusedError, match="nothing would change"):
        zeros.apply()
    (job / "out").symlink_to("/etc/hostname")
    with pytest.raises(RefusedError, match="out of the job's folder"):
        fault(job, "out", how="flip").undo()


@given(st.sampled_from(["truncate", "flip", "torn"]), st.floats(0, 99.9), st.integers(1, 5000), st.integers(1, 5000))
def test_a_region_lies_within_the_file(how: str, at: float, size: int, length: int) -> None:
    """The region is inside the file and not empty, and what stands there afterwards is as long, or nothing."""
    offset, lost = _region(Params(how, at, length), size)
    assert 0 <= offset < size and 1 <= lost <= size - offset
    assert len(_damaged(how, bytes(lost))) == (0 if how == "truncate" else lost)
