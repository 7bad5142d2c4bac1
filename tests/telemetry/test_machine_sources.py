"""Disks, control groups and the kernel's log: known files in, known figures out; and the machine's own."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from telemetry.disk import DISK_METRICS, DiskSource, device_counters
from telemetry.groups import GroupSource, mounted, number, throttled
from telemetry.kernel import KERNEL_METRICS, KernelSource, signs
from telemetry.registry import Registered

_STATS = b"   7       0 loop0 1 2 3 4 5 6 7 8 9 10 11 0 0\n 254 0 vda 724 0 5384 100 146092 9456 1596228 30394 2 30080 57449\n"


def test_room_falls_by_what_is_written(tmp_path):
    """A file of 8 MiB takes at least that from the room its file system tells; a folder that is not there is not told."""
    source = DiskSource((tmp_path, tmp_path / "none"))
    (before,) = source.read(1.0)
    with (tmp_path / "big").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 8 << 20)
    room = os.statvfs(tmp_path)
    (after,) = source.read(2.0)
    source.close()
    assert before[1] == tmp_path.name and before[2] == DISK_METRICS[: len(before[3])]
    assert after[3][0] == pytest.approx(room.f_bavail * room.f_frsize, rel=0.02)
    assert after[3][1] == room.f_blocks * room.f_frsize and after[3][3] == room.f_files


def test_a_disk_that_answers_nobody_is_missed_and_holds_nobody_up(tmp_path, monkeypatch):
    """While the child that asks hangs, its folder is missed at each beat and the other is told; later it is told as it is."""
    (tmp_path / "dead").mkdir()
    monkeypatch.setattr("telemetry.disk.PATIENCE_S", 60.0)
    source = DiskSource((tmp_path / "dead", tmp_path))
    room = {name: values[0] for _, name, _, values in source.read(1.0)}
    assert room["dead"] > 0 and room[tmp_path.name] > 0
    child = source._folders[0]._errand.pid
    os.kill(child, signal.SIGSTOP)
    monkeypatch.setattr("telemetry.disk.PATIENCE_S", 0.05)
    for mono_s in (2.0, 3.0):
        room = {name: values for _, name, _, values in source.read(mono_s)}
        assert room["dead"] == [None] * 4 and set(room) == {"dead", tmp_path.name}
    (tmp_path / "dead").rmdir()
    os.kill(child, signal.SIGCONT)
    monkeypatch.setattr("telemetry.disk.PATIENCE_S", 60.0)
    deadline = time.monotonic() + 60
    while "dead" in {name for _, name, _, _ in source.read(4.0)}:  # what it says of before is not taken for now
        assert time.monotonic() < deadline
    os.kill(child, signal.SIGKILL)
    assert "dead" in {name for _, name, _, values in source.read(5.0) if values[0] is None}
    assert "dead" not in {name for _, name, _, _ in source.read(6.0)}
    source.close()
    assert not Path(f"/proc/{child}").exists()


def test_doings_of_a_device_are_differences():
    """Requests a second, time per request, share of time busy; a latency without a request is missed."""
    assert device_counters(_STATS, 254, 0) == [724, 0, 5384, 100, 146092, 9456, 1596228, 30394, 2, 30080, 57449]
    assert device_counters(_STATS, 8, 0) == []
    source = DiskSource(())
    now = device_counters(_STATS, 254, 0)
    assert source._doings("d", 1.0, now) == [2.0, None, None, None, None, None]
    later = [n + grown for n, grown in zip(now, (0, 0, 0, 0, 10, 0, 0, 250, 1, 500, 0), strict=True)]
    assert source._doings("d", 3.0, later) == [3.0, 0.0, 5.0, None, 0.025, 0.25]
    source.close()


def test_a_group_is_read_through_either_version(tmp_path):
    """Memory, limit, kills and withheld CPU time of the same group as versions 1 and 2 tell them; no limit is no row."""
    old, new = tmp_path / "memory", tmp_path / "new"
    cpu = tmp_path / "cpu"
    for folder in (old, cpu, new):
        (folder / "job").mkdir(parents=True)
    (old / "job/memory.usage_in_bytes").write_text("4096\n")
    (old / "job/memory.limit_in_bytes").write_text("9223372036854771712\n")
    (old / "job/memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    (cpu / "job/cpu.stat").write_text("nr_periods 9\nnr_throttled 4\nthrottled_time 1500000000\n")
    (new / "job/memory.current").write_text("4096\n")
    (new / "job/memory.max").write_text("8192\n")
    (new / "job/memory.events").write_text("low 0\noom 3\noom_kill 3\noom_group_kill 7\n")
    (new / "job/cpu.stat").write_text("usage_usec 1\nnr_periods 9\nnr_throttled 4\nthrottled_usec 1500000\n")
    mounts = tmp_path / "mounts"
    mounts.write_text(
        f"cgroup {old} cgroup rw,memory 0 0\ncgroup {cpu} cgroup rw,cpu,cpuacct 0 0\ncgroup2 {new} cgroup2 rw 0 0\n"
    )
    source = GroupSource(str(mounts))
    first = {name: value for (name, _), value in source._values(b"4:memory:/job\n1:cpu,cpuacct:/job\n")}
    second = {name: value for (name, _), value in source._values(b"0::/job\n")}
    source.close()
    same = {"group_memory_bytes": 4096, "group_oom_kills": 3, "group_throttled_periods": 4, "group_throttled_s": 1.5}
    assert first == same and second == {**same, "group_memory_limit_bytes": 8192}


def test_a_process_is_followed_and_forgotten():
    """The machine's own groups are told for a living process, nothing for one that has gone; descriptors are given back."""
    source = GroupSource()
    sleeper = subprocess.Popen(["sleep", "1000"])
    before = len(list(Path("/proc/self/fd").iterdir()))
    source.follow({"train0": Registered("train0", "trainers", sleeper.pid, 1)})
    told = list(source.read(1.0))
    sleeper.kill()
    sleeper.wait()
    if mounted(Path("/proc/self/mounts").read_text()):
        assert [(host, component) for host, component, _, _ in told] == [("trainers", "train0")]
        assert all(value >= 0 for value in told[0][3])
    assert list(source.read(2.0)) == []
    source.follow({})
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_no_limit_and_no_number_are_missed():
    """`max`, version 1's huge number, an empty file."""
    assert [number(text) for text in (b"max\n", b"9223372036854771712\n", b"", b"12\n")] == [None, None, None, 12.0]
    assert throttled(b"", 2) == [None, None]


@pytest.mark.parametrize(
    ("record", "counted"),
    [
        (b"3,1,2,-;Memory cgroup out of memory: Killed process 42 (python) total-vm:1kB", [0]),
        (b"3,1,2,-;Out of memory: Killed process 42 (python)", [0]),
        (b"2,1,2,-;EXT4-fs error (device loop0): ext4_lookup:1: inode #2", [1]),
        (b'1,1,2,-;XFS (vdb): metadata I/O error in "xfs"', [1, 2]),
        (b"3,1,2,-;Buffer I/O error on dev loop0, logical block 0", [2]),
        (b"4,1,2,-;NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus.", [3]),
        (b"6,1,2,-;EXT4-fs (loop0): mounted filesystem with ordered data mode", []),
        (b"11,1,2,-;Out of memory: Killed process 42 said a program", []),
    ],
)
def test_the_kernels_sentences_are_told_apart(record, counted):
    """Each kind by its sentence; what a program wrote into the log is not the kernel's word."""
    assert signs(record) == counted


@pytest.mark.root
def test_a_record_is_counted_from_now_on(caplog):
    """What was there before is not counted; a program's record passes through unread; a log that is not there tells nothing."""
    source = KernelSource()
    with Path("/dev/kmsg").open("w") as log:
        log.write("<11>Out of memory: Killed process 1 (a program's claim)")
    assert list(source.read(1.0)) == [("machine", "machine", KERNEL_METRICS, [0.0] * len(KERNEL_METRICS))]
    source.close()
    assert list(KernelSource("/nowhere").read(1.0)) == []
