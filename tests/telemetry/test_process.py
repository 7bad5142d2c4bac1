"""Probes: what the kernel tells of a process, a host and a network, against processes whose doings are known."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.host import HOST_METRICS, HostProbe, cpu_ticks, kib_of, number_of, stalled_us
from telemetry.network import NETWORK_METRICS, NetworkProbe, device_totals, retransmits
from telemetry.process import PROCESS_METRICS, ProcessProbe, split_stat

NAMES = [name for name, _ in PROCESS_METRICS]

BUSY = """
import sys, threading
ballast = bytearray(b"x") * (64 << 20)
files = [open("/dev/null") for _ in range(20)]
threading.Thread(target=threading.Event().wait, daemon=True).start()
print("ready", flush=True)
while True:
    pass
"""

TOUCH = """
import mmap
fresh = mmap.mmap(-1, 16 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
print("ready", flush=True)
input()
for page in range(0, 16 << 20, 4096):
    fresh[page] = 1
print("touched", flush=True)
input()
"""


def start_ticks(pid: int) -> int:
    return int(split_stat(Path(f"/proc/{pid}/stat").read_bytes())[19])


def reading(probe: ProcessProbe, mono_s: float | None = None) -> dict[str, float | None]:
    return dict(zip(NAMES, probe.read(time.monotonic() if mono_s is None else mono_s), strict=True))


def eventually(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def busy():
    child = subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "ready\n"
    yield child
    child.kill()
    child.wait()
    child.stdout.close()


def test_a_busy_process_is_seen_as_psutil_sees_it(busy):
    """RSS, threads, open files and CPU time agree with psutil's; the first reading has no rates."""
    probe, other = ProcessProbe(busy.pid, start_ticks(busy.pid)), psutil.Process(busy.pid)
    cpu = []
    for mono_s in (10.0, 11.0):  # one second apart as told, so that the ratio is the CPU time in between
        cpu.append(sum(other.cpu_times()[:2]))
        now = reading(probe, mono_s)
        cpu.append(sum(other.cpu_times()[:2]))
        if mono_s == 10.0:
            assert now["cpu_ratio"] is None and now["read_bytes_per_s"] is None and now["process_alive"] == 1
            eventually(lambda: sum(other.cpu_times()[:2]) > cpu[-1] + 0.3)
    assert cpu[2] - cpu[1] - 0.01 <= now["cpu_ratio"] <= cpu[3] - cpu[0] + 0.01
    assert now["rss_bytes"] == pytest.approx(other.memory_info().rss, rel=0.05) and now["rss_bytes"] > 64 << 20
    assert now["vsize_bytes"] == pytest.approx(other.memory_info().vms, rel=0.05)
    assert now["threads"] == other.num_threads() == 2 and now["open_files"] == other.num_fds() >= 23
    assert now["process_state"] == 0 and now["involuntary_switches_per_s"] >= 0
    full = other.memory_full_info()
    assert probe.read_memory() == pytest.approx([full.pss, full.uss], rel=0.1) and full.uss > 64 << 20
    probe.close()
    probe.close()


def test_a_stopped_process_has_state_3_and_a_killed_one_is_not_alive(busy):
    """SIGSTOP is state 3; after SIGKILL a zombie (5, not alive); once reaped it has gone: alive 0, the rest null."""
    probe = ProcessProbe(busy.pid, start_ticks(busy.pid))
    busy.send_signal(signal.SIGSTOP)
    eventually(lambda: reading(probe)["process_state"] == 3)
    assert reading(probe)["process_alive"] == 1
    os.kill(busy.pid, signal.SIGKILL)
    eventually(lambda: reading(probe)["process_state"] == 5)
    assert reading(probe)["process_alive"] == 0
    busy.wait()
    gone = reading(probe)
    assert gone.pop("process_alive") == 0 and gone.pop("process_state") == 6 and set(gone.values()) == {None}
    assert probe.read_memory() == [None, None]


def test_pages_taken_are_seen_as_faults_and_as_the_process_own():
    """A child touches 4096 fresh pages when told: its minor faults and its unique set size grow by at least those."""
    child = subprocess.Popen([sys.executable, "-c", TOUCH], stdin=-1, stdout=-1)
    try:
        assert child.stdout.readline() == b"ready\n"
        probe = ProcessProbe(child.pid, start_ticks(child.pid))
        before, _ = probe.read_memory()[1], reading(probe, 1.0)
        child.stdin.write(b"\n")
        child.stdin.flush()
        assert child.stdout.readline() == b"touched\n"
        assert reading(probe, 2.0)["minor_faults_per_s"] >= 4000 and probe.read_memory()[1] - before >= 15 << 20
        probe.close()
    finally:
        child.kill()
        child.wait()
        child.stdin.close()
        child.stdout.close()


def test_switches_are_told_as_they_are_whether_it_ran_or_not():
    """A child wakes once for each line it is sent: after each, and after none, the switches are those that psutil counts."""
    child = subprocess.Popen([sys.executable, "-c", "import sys\nfor _ in sys.stdin: print(flush=True)"], stdin=-1, stdout=-1)
    try:
        child.stdin.write(b"\n")
        child.stdin.flush()
        child.stdout.readline()
        probe, other = ProcessProbe(child.pid, start_ticks(child.pid)), psutil.Process(child.pid)
        eventually(lambda: reading(probe)["process_state"] == 1)
        before, told = other.num_ctx_switches(), reading(probe, 1.0)
        for turn, lines in enumerate((0, 3, 0, 0, 1), start=2):
            for _ in range(lines):
                child.stdin.write(b"\n")
                child.stdin.flush()
                child.stdout.readline()
            eventually(lambda: other.status() == "sleeping")
            now, told = other.num_ctx_switches(), reading(probe, float(turn))
            assert told["voluntary_switches_per_s"] == now.voluntary - before.voluntary >= bool(lines)
            assert told["involuntary_switches_per_s"] == now.involuntary - before.involuntary
            assert lines or now == before
            before = now
        probe.close()
    finally:
        child.kill()
        child.wait()
        child.stdin.close()
        child.stdout.close()


def test_another_process_with_the_same_number_is_not_mistaken(busy):
    """Pid and start time together name a process: with a wrong start time it counts as gone."""
    assert reading(ProcessProbe(busy.pid, start_ticks(busy.pid) - 1))["process_alive"] == 0
    assert reading(ProcessProbe(2**22 + 5, 1))["process_alive"] == 0


@given(name=st.binary(max_size=15).filter(lambda name: b"\n" not in name))
def test_a_command_name_cannot_shift_the_fields(name):
    """Brackets and spaces in the command's name do not move the state."""
    assert split_stat(b"12 (" + name + b") S 1 2 3")[:2] == [b"S", b"1"]


def test_the_host_is_told_within_its_limits():
    """Every ratio lies in [0, 1] (a stall may exceed it by clock rounding), memory fits, and rates need two readings."""
    probe = HostProbe()
    names = [name for name, _ in HOST_METRICS]
    first = dict(zip(names, probe.read(time.monotonic()), strict=True))
    time.sleep(0.3)
    now = dict(zip(names, probe.read(time.monotonic()), strict=True))
    assert first["host_cpu_ratio"] is None and first["psi_cpu_some_ratio"] is None
    assert 0 <= now["host_cpu_ratio"] <= 1 and 0 <= now["host_cpu_steal_ratio"] <= 1
    assert now["host_memory_total_bytes"] == psutil.virtual_memory().total
    assert 0 < now["host_memory_available_bytes"] <= now["host_memory_total_bytes"] and now["host_load_1m"] >= 0
    has_psi = Path("/proc/pressure/cpu").exists()
    assert all((now[name] is not None) == has_psi for name in names if name.startswith("psi_"))
    assert all(0 <= now[name] <= 1.1 for name in names if name.startswith("psi_") and has_psi)
    probe.close()
    probe.close()


def test_host_files_are_parsed_as_the_kernel_writes_them():
    """Known text, known numbers: guest time is not counted twice, iowait is idle, a missing source is None."""
    assert cpu_ticks(b"cpu  100 20 30 400 50 6 7 8 90 10\ncpu0 1 2\n") == (621, 163, 8, 50)
    assert kib_of(b"MemTotal:    8 kB\nMemAvailable:  3 kB\n", b"MemAvailable:") == 3072.0 and kib_of(b"", b"MemTotal:") is None
    assert number_of(b"pgfault 1\noom_kill 21\n", b"\noom_kill ") == 21
    psi = b"some avg10=0.00 avg60=0.00 avg300=0.00 total=123\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=45\n"
    assert stalled_us(psi, b"full") == 45 and stalled_us(b"", b"some") is None


def test_network_files_are_parsed_as_the_kernel_writes_them():
    """Loopback apart from devices, drops of both ways together, retransmits by their column's name."""
    dev = (
        b"Inter-|   Receive      |  Transmit\n face |bytes    packets errs drop|bytes    packets errs drop\n"
        b"    lo:     500       5    0    0    0     0          0         0      500       5    0    0    0     0       0   0\n"
        b"  eth0:1000 10 0 3 0 0 0 0 2000 20 0 4 0 0 0 0\n"
    )
    assert device_totals(dev) == [1000, 2000, 500, 7]
    assert retransmits(b"Tcp: RtoMin RetransSegs\nTcp: 200 17\n") == 17 and retransmits(b"Ip: a\nIp: 1\n") is None


def test_bytes_over_the_loopback_are_seen_also_after_the_process_died():
    """A megabyte sent over a socket shows in the rate, through the descriptor of a process that is there no more."""
    sleeper = subprocess.Popen(["sleep", "1000"])
    probe = NetworkProbe(sleeper.pid)
    assert probe.opened
    sleeper.kill()
    sleeper.wait()
    assert not NetworkProbe(sleeper.pid).opened
    names = [name for name, _ in NETWORK_METRICS]
    began = time.monotonic()
    assert set(probe.read(began)) == {None}
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        other, _ = server.accept()
        with other:
            for _ in range(16):
                client.sendall(b"x" * 65536)
                assert len(other.recv(65536, socket.MSG_WAITALL)) == 65536
    ended = began + 0.5
    now = dict(zip(names, probe.read(ended), strict=True))
    assert now["net_loopback_bytes_per_s"] * 0.5 >= 1 << 20
    assert now["tcp_retransmits_per_s"] >= 0 and now["net_rx_bytes_per_s"] >= 0
    probe.close()
