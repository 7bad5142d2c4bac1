"""What the relay costs when nothing is done to the link, and how exactly it delays and narrows: python bench/proxy.py"""

from __future__ import annotations

import os
import socket
import statistics
import tempfile
import threading
import time
from pathlib import Path

import requests

from injection.host_place import HostPlace
from injection.proxies import start_proxies
from storage.records import Link

ROUND_TRIPS = 3000
MEBIBYTES = 512
DELAYS_MS = (1, 5, 20, 100)
RATES_KB_S = (13.85, 100, 1000, 20000)
TOXICS = "/proxies/a%3Eb%3Arpc/toxics"


def serve(listener: socket.socket) -> None:
    """Echo single requests; swallow a transfer that begins with t and say x at its end."""
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=answer, args=(connection,), daemon=True).start()


def answer(connection: socket.socket) -> None:
    """One connection of `serve`."""
    with connection:
        if connection.recv(1) == b"t":
            while connection.recv(1 << 20):
                pass
            connection.sendall(b"x")
            return
        connection.sendall(b"r")
        while data := connection.recv(64):
            connection.sendall(data)


def dial(address: str, manner: bytes) -> socket.socket:
    """Connect and say what kind of connection it is to be."""
    host, port = address.split(":")
    connection = socket.create_connection((host, int(port)))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(manner)
    if manner == b"r":
        connection.recv(1)
    return connection


def round_trips(address: str, count: int) -> list[float]:
    """Seconds of each, sorted."""
    times = []
    with dial(address, b"r") as connection:
        for _ in range(count):
            start = time.perf_counter()
            connection.sendall(b"x")
            connection.recv(1)
            times.append(time.perf_counter() - start)
    return sorted(times)


def transfer(address: str, size: int) -> float:
    """Bytes per second of one transfer of ``size`` bytes."""
    block = bytes(1 << 20)
    with dial(address, b"t") as connection:
        start = time.perf_counter()
        for sent in range(0, size, len(block)):
            connection.sendall(block[: size - sent])
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1)
        return size / (time.perf_counter() - start)


def fidelity(api: str, relayed: str) -> None:
    """Ask for delays and rates, and print what came."""
    base = f"http://{api}{TOXICS}"
    for delay in DELAYS_MS:
        requests.post(base, json={"type": "latency", "attributes": {"latency": delay}}, timeout=10)
        times = round_trips(relayed, max(20, 1000 // delay))
        requests.delete(f"{base}/latency_downstream", timeout=10)
        print(f"latency {delay} ms asked: p50 {times[len(times) // 2] * 1e3:.2f} ms, worst {times[-1] * 1e3:.2f} ms")
    for rate in RATES_KB_S:
        requests.post(base, json={"type": "bandwidth", "stream": "upstream", "attributes": {"rate": rate}}, timeout=10)
        seen = transfer(relayed, int(rate * 2000)) / 1000
        requests.delete(f"{base}/bandwidth_upstream", timeout=10)
        print(f"bandwidth {rate} KB/s asked: {seen:.2f} KB/s ({100 * (seen / rate - 1):+.1f} %)")


def main() -> None:
    """Print the figures."""
    listener = socket.create_server(("127.0.0.1", 0))
    direct = f"127.0.0.1:{listener.getsockname()[1]}"
    threading.Thread(target=serve, args=(listener,), daemon=True).start()
    place = HostPlace({})
    with tempfile.TemporaryDirectory() as folder:
        try:
            relays = start_proxies(place, [Link("a", "b", "rpc", direct)], Path(folder) / "log")
            relayed = relays.dial["a>b:rpc"]
            for name, address in (("direct", direct), ("relayed", relayed)):
                times = round_trips(address, ROUND_TRIPS)
                rate = statistics.median(transfer(address, MEBIBYTES << 20) for _ in range(3)) / (1 << 20)
                p50, p99 = times[len(times) // 2] * 1e6, times[len(times) * 99 // 100] * 1e6
                print(f"{name}: round trip p50 {p50:.0f} us, p99 {p99:.0f} us, {rate:.0f} MiB/s on {os.cpu_count()} cores")
            fidelity(relays.api, relayed)
        finally:
            place.close()


if __name__ == "__main__":
    main()
