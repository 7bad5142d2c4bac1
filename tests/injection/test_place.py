"""What every place promises, on the virtual cluster and on the plain host alike."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from injection.keeper_client import MAX_SCRATCH
from injection.place import KINDS, Place, PlaceError, open_place

PATIENCE_S = 30.0


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    virtual = request.param == "virtual-cluster"
    place = open_place(request.param, {"controller": "control", "train0": "trainers"} if virtual else {"train0": "localhost"})
    yield place
    place.close()


def until(true: Callable[[], object], seconds: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)


def shell(place: Place, command: str, log: Path, **more: object) -> tuple[int | None, str]:
    process = place.spawn(["sh", "-c", command], host=place.hosts[-1], log=log, **more)
    return process.wait(PATIENCE_S), log.read_text()


def test_exit_codes_and_signals_are_told_apart(place: Place, scratch: Path) -> None:
    """A process's own exit code is positive, its death by a signal negative, and a running one has neither."""
    assert shell(place, "exit 7", scratch / "a.log")[0] == 7
    sleeper = place.spawn(["sleep", "600"], host=place.hosts[0], log=scratch / "b.log")
    assert sleeper.poll() is None
    assert sleeper.wait(0.05) is None
    sleeper.signal(signal.SIGTERM)
    assert sleeper.wait(PATIENCE_S) == -signal.SIGTERM
    sleeper.signal(signal.SIGTERM)
    assert sleeper.poll() == -signal.SIGTERM


def test_output_environment_and_folder_are_as_asked(place: Place, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard output and error are appended to the log in order; the environment is clean but for what was given."""
    monkeypatch.setenv("SOMETHING_OF_THE_USER", "1")
    log = scratch / "logs" / "a.log"
    code, text = shell(place, "echo out; echo err >&2; env; pwd", log, env={"GIVEN": "2"}, cwd=scratch)
    assert code == 0
    lines = text.splitlines()
    assert lines[:2] == ["out", "err"]
    assert lines[-1] == str(scratch)
    assert "GIVEN=2" in lines
    assert not [line for line in lines if "SOMETHING_OF_THE_USER" in line]
    assert shell(place, "echo again", log)[1].splitlines() == [*lines, "again"]


def test_what_cannot_start_says_why(place: Place, scratch: Path) -> None:
    """A missing program, a missing folder and an unknown host are refused with their name, and the place goes on."""
    with pytest.raises(OSError, match="no-such-program"):
        place.spawn([str(scratch / "no-such-program")], host=place.hosts[0], log=scratch / "a.log")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        place.spawn(["true"], host=place.hosts[0], log=scratch / "a.log", cwd=scratch / "nowhere")
    with pytest.raises(ValueError, match="mars"):
        place.spawn(["true"], host="mars", log=scratch / "a.log")
    assert shell(place, "exit 0", scratch / "a.log")[0] == 0


def test_close_ends_grandchildren_that_left_their_session(place: Place, scratch: Path) -> None:
    """A daemon that was orphaned in a session of its own is gone when close returns, and so is scratch; close is idempotent."""
    assert len(str(place.scratch)) <= MAX_SCRATCH
    assert place.scratch.stat().st_mode & 0o777 == 0o700
    seconds = "98765"
    assert shell(place, f"setsid sh -c 'sleep {seconds} & exec sleep {seconds}' & echo started", scratch / "a.log")[0] == 0
    until(lambda: len(sleepers(seconds)) == 2)
    place.close()
    assert sleepers(seconds) == []
    assert not place.scratch.exists()
    place.close()
    with pytest.raises(PlaceError):
        place.spawn(["true"], host=place.hosts[0], log=scratch / "a.log")


def sleepers(seconds: str) -> list[int]:
    """Processes of this machine that sleep for just so long (dead ones that nobody reaped yet do not count)."""
    mine = [process for process in psutil.process_iter(["cmdline", "status"]) if process.info["cmdline"] == ["sleep", seconds]]
    return [process.pid for process in mine if process.info["status"] != psutil.STATUS_ZOMBIE]


LAB = """
import sys, time
from pathlib import Path
from injection.place import open_place
kind, log, seconds = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
place = open_place(kind, {})
for host in place.hosts[:2]:
    place.spawn(["sh", "-c", f"sleep {seconds} & sleep {seconds} & wait"], host=host, log=log)
print(place.scratch, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ordinary", [False, True], ids=["as-oneself", "as-ordinary-user"])
def test_a_killed_lab_leaves_nothing(kind: str, ordinary: bool, scratch: Path, ordinary_user: Callable) -> None:
    """After kill -9 of the process that opened the place, no process, device, namespace or folder of it remains."""
    seconds = str(700_000 + os.getpid() % 100_000)
    devices = set(Path("/sys/class/net").iterdir())
    log = scratch / ("home/a.log" if ordinary else "a.log")
    argv = [sys.executable, "-c", LAB, kind, str(log), seconds]
    lab = ordinary_user(argv) if ordinary else subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert lab.stdout is not None
    folder = Path(lab.stdout.readline().strip())
    assert folder.is_dir(), lab.stderr and lab.stderr.read()
    hosts = 2 if kind == "virtual-cluster" else 1
    until(lambda: len(sleepers(seconds)) == 2 * hosts)
    keepers = psutil.Process(lab.pid).children(recursive=True)
    networks = {str(Path(f"/proc/{pid}/ns/net").readlink()) for pid in sleepers(seconds)}
    assert len(networks) == hosts
    lab.kill()
    lab.communicate()
    until(lambda: not sleepers(seconds) and not folder.exists() and not any(map(alive, keepers)))
    assert set(Path("/sys/class/net").iterdir()) == devices
    if kind == "virtual-cluster":
        assert not networks & network_namespaces()


def alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def network_namespaces() -> set[str]:
    """Network namespaces that some process of this machine is in."""
    found = set()
    for pid in psutil.pids():
        try:
            found.add(str(Path(f"/proc/{pid}/ns/net").readlink()))
        except OSError:
            continue
    return found


def test_an_unknown_kind_is_refused_by_name() -> None:
    """The answer names what was asked for and what there is."""
    with pytest.raises(PlaceError, match=r"moon.*virtual-cluster, plain-host"):
        open_place("moon", {})


def test_a_killed_keeper_leaves_nothing_once_closed(place: Place, scratch: Path) -> None:
    """After kill -9 of the process that keeps the place, the place says that it is gone, and close ends what is left."""
    seconds = "98764"
    process = place.spawn(["sh", "-c", f"sleep {seconds} & setsid sleep {seconds}"], host=place.hosts[0], log=scratch / "a.log")
    until(lambda: len(sleepers(seconds)) == 2)
    os.kill(keeper_of(place), signal.SIGKILL)
    with pytest.raises(PlaceError):
        process.wait(PATIENCE_S)
    place.close()
    until(lambda: not sleepers(seconds))
    assert not place.scratch.exists()


def keeper_of(place: Place) -> int:
    """The child of this process that was given the place's scratch folder."""
    mine = [child.pid for child in psutil.Process().children() if str(place.scratch) in " ".join(child.cmdline())]
    assert len(mine) == 1
    return mine[0]
