"""Network devices, one by one."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from telemetry.interfaces import INTERFACE_METRICS, InterfaceSource, devices
from telemetry.registry import Registered

DEV = (
    b"Inter-|   Receive      |  Transmit\n face |bytes    packets errs drop|bytes    packets errs drop\n"
    b"    lo:     500       5    0    0    0     0          0         0      500       5    0    0    0     0       0   0\n"
    b"  eth0:1000 10 1 3 0 0 0 0 2000 20 2 4 0 0 0 0\n ib0:\n"
)


def test_each_device_is_told_for_itself():
    """Known text: errors and drops of both ways together; a device without figures is left out."""
    assert devices(DEV) == {"lo": [500, 500, 5, 5, 0, 0], "eth0": [1000, 2000, 10, 20, 3, 7]} and devices(b"") == {}


def test_what_is_sent_shows_at_its_device():
    """A megabyte over the loopback is there at `lo`, both ways, through one descriptor a host, which is given back."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    source = InterfaceSource()
    source.follow({name: Registered(name, "trainers", os.getpid(), 0) for name in ("train0", "train1")})
    first = {component: values for _, component, _, values in source.read(1.0)}
    assert first["trainers:lo"] == [None] * len(INTERFACE_METRICS)
    sender, receiver = socket.socket(type=socket.SOCK_DGRAM), socket.socket(type=socket.SOCK_DGRAM)
    with sender, receiver:
        receiver.bind(("127.0.0.1", 0))
        for _ in range(100):
            sender.sendto(b"x" * 10_000, receiver.getsockname())
        told = {component: values for _, component, _, values in source.read(3.0)}
    assert min(told["trainers:lo"][:2]) >= 500_000 and min(told["trainers:lo"][2:4]) >= 50
    source.close()
    source.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before and list(source.read(4.0)) == []
