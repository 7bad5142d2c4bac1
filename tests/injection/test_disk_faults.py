"""Faults on the job's disk, done from inside a virtual cluster by a driver that imports the very classes."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from injection.disk import Disk, own_disk
from injection.fault import RefusedError
from injection.place import Place, open_place
from injection.virtual import loop
from tests.injection.victim import wait_until

pytestmark = pytest.mark.job

PATIENCE_S = 60.0
COMPONENTS = {"train0": "trainers", "controller": "control"}
DRIVER = """
import json, os, sys, time
from pathlib import Path
from injection import procfs
from injection.fault import Context
from injection.measure import ask_here
from injection.registry import make_fault, FAULTS
from injection.target import LivePath, LiveProcess
disk = Path({disk!r})
me = LiveProcess("train0", "trainers", "", procfs.identity(os.getpid()))
def fault(kind, **params):
    one = make_fault(kind, params, Context(LivePath(me, disk), "disk", ask_here, job=disk.parent))
    one.arm()
    return one
def tell(**figures):
    print(json.dumps(figures), flush=True)
"""


@pytest.fixture(params=[pytest.param("device", marks=pytest.mark.root), "memory"])
def place(request: pytest.FixtureRequest, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    if request.param == "memory":
        monkeypatch.setattr(loop, "why_not", lambda: "not wanted")
    else:
        assert not loop.why_not(), loop.why_not()
    one = open_place("virtual-cluster", COMPONENTS, Disk(scratch / "job" / "recover", 32))
    yield one
    one.close()
    assert attached(one.scratch) == []


def attached(scratch: Path) -> list[str]:
    """Loop devices whose image lies in that folder."""
    found = [path.read_text() for path in Path("/sys/block").glob("loop*/loop/backing_file")]
    return [text for text in found if str(scratch) in text]


Drive = Callable[[str], list[dict]]


@pytest.fixture
def drive(place: Place, scratch: Path) -> Drive:
    """Run code inside, where the injector has its seat; what it tells."""

    def run(code: str) -> list[dict]:
        log = scratch / "driver.log"
        log.unlink(missing_ok=True)
        argv = [sys.executable, "-c", DRIVER.format(disk=str(scratch / "job" / "recover")) + code]
        process = place.spawn(argv, host="", log=log)
        assert process.wait(PATIENCE_S) == 0, log.read_text()
        return [json.loads(line) for line in log.read_text().splitlines()]

    return run


def test_the_disk_is_inside_alone(place: Place, drive: Drive, scratch: Path) -> None:
    """The disk is a mount of its own inside the place, empty and of its size; outside there is an empty folder."""
    (found,) = drive(
        "(disk / 'x').touch(); s = os.statvfs(disk); tell(mib=s.f_blocks * s.f_frsize >> 20, files=os.listdir(disk))"
    )
    assert 20 <= found["mib"] <= 32 and found["files"] == ["x"]
    assert list((scratch / "job" / "recover").iterdir()) == []
    with pytest.raises(RefusedError, match="not a disk of the job's own"):
        own_disk(scratch / "job" / "recover")


def test_a_full_disk_stays_full_and_is_free_again(drive: Drive) -> None:
    """Fill: within half a point; what the job frees is taken as well; writing fails for want of space; undone all is back."""
    before, full, again, after = drive("""
(disk / "old").write_bytes(os.urandom(4 << 20))
os.sync()
one = fault("disk-fill", percent=99.9)
undo = one.undo()
tell(free=ask_here("disk_space", {**undo, "most_free_bytes": 0, "wait_s": 0})["free_bytes"])
one.apply()
found = one.verify()
tell(ok=found.ok, gone=FAULTS["disk-fill"].gone(undo, ask_here).ok, **found.measured)
(disk / "old").unlink()
try:
    with (disk / "new").open("wb") as file:
        file.write(bytes(4 << 20)); file.flush(); os.fsync(file.fileno())
    error = 0
except OSError as failure:
    error = failure.errno
tell(error=error, size=(disk / "new").stat().st_size)
(disk / "new").unlink()
for _ in range(2):
    FAULTS["disk-fill"].revert(undo)
found = FAULTS["disk-fill"].gone(undo, ask_here)
tell(ok=found.ok, **found.measured)
""")
    assert full["ok"] and not full["gone"] and full["used_percent"] >= 99.4
    assert again["error"] == 28 and again["size"] < 1 << 20
    assert after["ok"] and after["free_bytes"] >= before["free"] + (3 << 20)


def test_two_fillers_and_a_reserve(drive: Drive) -> None:
    """The higher of two percentages holds; reverting it leaves the other; a reserve is left whatever is asked."""
    first, both, one_left, reserved = drive("""
def used(undo):
    return ask_here("disk_space", {**undo, "most_free_bytes": 0, "wait_s": 0})["used_percent"]
low, high = fault("disk-fill", percent=50), fault("disk-fill", percent=80)
low.apply(); tell(used=used(low.undo()))
high.apply(); tell(used=used(low.undo()))
FAULTS["disk-fill"].revert(high.undo()); tell(used=used(low.undo()))
FAULTS["disk-fill"].revert(low.undo())
kept = fault("disk-fill", percent=100, reserve_mib=8)
kept.apply()
tell(free=kept.verify().measured["free_bytes"], ok=kept.verify().ok)
FAULTS["disk-fill"].revert(kept.undo())
""")
    assert abs(first["used"] - 50) <= 0.5 and abs(both["used"] - 80) <= 0.5 and abs(one_left["used"] - 50) <= 0.5
    assert reserved["ok"] and abs(reserved["free"] - (8 << 20)) <= 1 << 16


SLOW = """
one = fault("io-contention", **{params})
undo = one.undo()
def written(seconds=1.0):
    return ask_here("disk_write", {{"path": str(disk), "bytes_per_s": 0.0, "within_s": seconds}})
tell(**written())
one.apply()
found = one.verify()
tell(ok=found.ok, gone=FAULTS["io-contention"].gone(undo, ask_here).ok, **found.measured)
for _ in range(2):
    FAULTS["io-contention"].revert(undo)
tell(ok=FAULTS["io-contention"].gone(undo, ask_here).ok, **written())
"""


@pytest.mark.parametrize(
    "params",
    [
        {"how": "contend", "bytes_per_s": 2e6},
        {"how": "throttle", "bytes_per_s": 2e5},
        {"how": "hang"},
    ],
    ids=lambda params: params["how"],
)
def test_a_slow_disk(drive: Drive, request: pytest.FixtureRequest, params: dict) -> None:
    """Others write, the group's limit holds, or nothing comes back at all: seen by a write of its own, and gone by another."""
    if "memory" in request.node.name:
        with pytest.raises(AssertionError, match=r"memory \(tmpfs\): slow or hanging it can only be as a loop device"):
            drive(SLOW.format(params=params))
        return
    before, slow, after = drive(SLOW.format(params=params))
    assert not before["hangs"] and slow["ok"] and not slow["gone"]
    assert after["ok"] and not after["hangs"]
    if params["how"] == "throttle":
        assert slow["bytes_per_s"] < before["bytes_per_s"] / 2 and after["bytes_per_s"] > 2 * slow["bytes_per_s"]


def test_a_keeper_outlives_whoever_speaks_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed with its answer unread, or talking nonsense: the asker is forgotten, the disk thawed, the keeper goes on."""
    done: list[int] = []
    monkeypatch.setattr(loop.Freezer, "_switch", lambda _, request: done.append(request))
    freezer = loop.Freezer(tmp_path)
    for words in (b"freeze 1", b"freeze", b"nonsense", b"\xff", b"thaw other"):
        near, far = socket.socketpair()
        far.sendall(words)
        assert freezer.hear(near)
        far.close()
        assert not freezer.hear(near)
        near.close()
    assert done == [loop.FIFREEZE, loop.FITHAW] * 2


TWICE = """
def disk_hangs():
    return ask_here("disk_write", {"path": str(disk), "bytes_per_s": 0.0, "within_s": 0.5, "most_blocks": 1})["hangs"]
one, two = fault("io-contention", how="hang"), fault("io-contention", how="hang")
first, second = one.undo(), two.undo()
one.apply(); two.apply()
FAULTS["io-contention"].revert(second); tell(hangs=disk_hangs())
FAULTS["io-contention"].revert(first); tell(hangs=disk_hangs())
limit, other = fault("io-contention", how="throttle", bytes_per_s=1e6), fault("io-contention", how="throttle", bytes_per_s=2e6)
record = limit.undo(); late = other.undo(); limit.apply()
try:
    other.apply()
except Exception as refusal:
    tell(refusal=str(refusal))
FAULTS["io-contention"].revert(late); tell(free=FAULTS["io-contention"].gone(record, ask_here).ok)
FAULTS["io-contention"].revert(record); tell(free=FAULTS["io-contention"].gone(record, ask_here).ok)
"""


@pytest.mark.parametrize("place", ["device"], indirect=True)
def test_a_second_hang_and_a_second_limit(drive: Drive) -> None:
    """Frozen until the last of two hangs is undone; a second limit is refused, and undoing it leaves the first alone."""
    one_left, none_left, refused, held, lifted = drive(TWICE)
    assert one_left["hangs"] and not none_left["hangs"]
    assert "limited already" in refused["refusal"] and not held["free"] and lifted["free"]


HANG = """
one = fault("io-contention", how="hang")
one.undo(); one.apply()
tell(hangs=one.verify().measured["hangs"])
time.sleep(600)
"""


#: Writes now and then, and tells each time.
WRITER = """
import time
while True:
    open({path!r}, "w").write("x")
    print("x", flush=True)
    time.sleep(0.05)
"""


@pytest.mark.root
def test_a_hang_ends_with_whoever_made_it(scratch: Path) -> None:
    """Frozen: kill -9 of the injector thaws at once; kill -9 of the disk's keeper is thawed when the place is closed."""
    path = scratch / "job" / "recover"
    place = open_place("virtual-cluster", COMPONENTS, Disk(path, 16))
    driver = [sys.executable, "-c", DRIVER.format(disk=str(path)) + HANG]
    told = scratch / "w.log"
    place.spawn([sys.executable, "-c", WRITER.format(path=str(path / "w"))], host="trainers", log=told)
    wait_until(lambda: told.exists() and told.stat().st_size > 0, "somebody writes")

    def stands() -> bool:
        before = told.stat().st_size
        time.sleep(0.5)
        return told.stat().st_size == before

    for number in range(2):
        log = scratch / f"d{number}.log"
        injector = place.spawn(driver, host="", log=log)
        wait_until(lambda log=log: "true" in log.read_text(), "it hangs")
        assert stands()
        if number == 0:
            injector.signal(9)
            wait_until(lambda: not stands(), "it goes on")
    os.kill(place._keeper.pid, 9)
    place.close()
    assert attached(place.scratch) == []


AS_A_USER = """
import json, sys
from pathlib import Path
from injection.disk import Disk
from injection.place import open_place
disk = Path("job/recover").resolve()
place = open_place("virtual-cluster", {{"train0": "trainers"}}, Disk(disk, 16))
driver = place.spawn([sys.executable, "-c", {driver!r}.replace("DISK", str(disk))], host="", log=Path("driver.log"))
print(json.dumps({{"code": driver.wait(60), "said": Path("driver.log").read_text()}}))
place.close()
"""
USERS_DRIVER = """
one = fault("disk-fill", percent=90)
one.apply()
found = one.verify()
FAULTS["disk-fill"].revert(one.undo())
gone = FAULTS["disk-fill"].gone(one.undo(), ask_here)
try:
    fault("io-contention", how="hang")
except Exception as refusal:
    tell(ok=found.ok, gone=gone.ok, used=found.measured["used_percent"], refusal=str(refusal))
"""


def test_an_ordinary_user_has_a_disk_of_memory(scratch: Path, ordinary_user: Callable) -> None:
    """Without root the disk is memory: it can be filled and is free again; that it cannot hang is said in one sentence."""
    code = AS_A_USER.format(driver=DRIVER.format(disk="DISK") + USERS_DRIVER)
    process = ordinary_user([sys.executable, "-c", code])
    out, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors
    told = json.loads(out)
    assert told["code"] == 0, told["said"]
    found = json.loads(told["said"])
    assert found["ok"] and found["gone"] and abs(found["used"] - 90) <= 0.5
    assert found["refusal"].startswith("the job's disk is memory (tmpfs)")
