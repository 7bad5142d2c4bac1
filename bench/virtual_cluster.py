"""How long three virtual hosts take to stand and to go, and what their network carries: python bench/virtual_cluster.py"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

from injection.virtual.cluster import HOSTS, VirtualCluster

REPEATS = 10
ROUND_TRIPS = 5000
MEBIBYTES = 512

SERVE = """
import socket, sys
server = socket.create_server((sys.argv[1], 7000))
for _ in range(2):
    connection, _ = server.accept()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if connection.recv(1) == b"r":
        while data := connection.recv(64):
            connection.sendall(data)
    else:
        while connection.recv(1 << 20):
            pass
        connection.sendall(b"x")
    connection.close()
"""
DIAL = """
import socket, statistics, sys, time
address, source, trips, size = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
def dial():
    while True:
        try:
            connection = socket.create_connection((address, 7000), source_address=(source, 0))
        except ConnectionRefusedError:
            time.sleep(0.01)
            continue
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection
with dial() as connection:
    connection.sendall(b"r")
    times = []
    for _ in range(trips):
        start = time.perf_counter()
        connection.sendall(b"x")
        connection.recv(1)
        times.append(time.perf_counter() - start)
times.sort()
print(f"round trip p50 {times[trips // 2] * 1e6:.1f} us, p99 {times[trips * 99 // 100] * 1e6:.1f} us")
with dial() as connection:
    connection.sendall(b"t")
    block, start = bytes(1 << 20), time.perf_counter()
    for _ in range(size):
        connection.sendall(block)
    connection.shutdown(socket.SHUT_WR)
    connection.recv(1)
    print(f"throughput {size / (time.perf_counter() - start):.0f} MiB/s")
"""


def stand_and_go() -> tuple[float, float]:
    """Seconds until a process answered on every host, and seconds of close."""
    start = time.perf_counter()
    cluster = VirtualCluster({"train0": "trainers", "rollout0": "rollouts"})
    for host in HOSTS:
        assert cluster.spawn(["true"], host=host, log=cluster.scratch / "log").wait(30) == 0
    stood = time.perf_counter()
    cluster.close()
    return stood - start, time.perf_counter() - stood


def network(folder: Path) -> str:
    """What two components on two hosts measure over TCP."""
    cluster = VirtualCluster({"train0": "trainers", "rollout0": "rollouts"})
    try:
        server, client = cluster.component_address("train0"), cluster.component_address("rollout0")
        cluster.spawn([sys.executable, "-c", SERVE, server], host="trainers", log=folder / "server")
        argv = [sys.executable, "-c", DIAL, server, client, str(ROUND_TRIPS), str(MEBIBYTES)]
        assert cluster.spawn(argv, host="rollouts", log=folder / "client").wait(300) == 0
        return (folder / "client").read_text().strip()
    finally:
        cluster.close()


def main() -> None:
    """Print the figures."""
    stand, go = zip(*(stand_and_go() for _ in range(REPEATS)), strict=True)
    print(f"three hosts, a process run on each: median {statistics.median(stand):.3f} s, worst {max(stand):.3f} s of {REPEATS}")
    print(f"close: median {statistics.median(go):.3f} s, worst {max(go):.3f} s")
    with tempfile.TemporaryDirectory() as folder:
        print(network(Path(folder)))


if __name__ == "__main__":
    main()
