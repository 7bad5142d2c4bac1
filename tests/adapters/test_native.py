"""Ports of the plain host."""

import socket
from contextlib import ExitStack
from pathlib import Path

from adapters.native import FROM, free_ports


def test_no_outgoing_connection_can_take_a_workers_port():
    """Ports are different, free, and not among those that the kernel gives to connections."""
    ports = free_ports([f"c{n}" for n in range(50)])
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert len(set(ports.values())) == 50
    assert all(FROM <= port < lowest or lowest <= FROM for port in ports.values())
    with ExitStack() as held:
        for port in ports.values():
            held.enter_context(socket.create_server(("127.0.0.1", port)))


def test_where_nothing_is_left_below_any_free_port_will_do(monkeypatch):
    """A kernel that gives every port to connections still has free ones."""
    monkeypatch.setattr("adapters.native.FROM", 70_000)
    assert len(set(free_ports(["a", "b", "c"]).values())) == 3
