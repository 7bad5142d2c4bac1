"""Relays for the links of a place: one each, leading where the link leads, and living no longer than the place."""

from __future__ import annotations

import signal
import socket
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from injection.host_place import HostPlace
from injection.place import PlaceError
from injection.proxies import start_proxies
from storage.records import Link

PATIENCE_S = 30.0


class Echo(socketserver.StreamRequestHandler):
    """Sends five bytes back."""

    def handle(self) -> None:
        self.wfile.write(self.rfile.read(5))


@pytest.fixture
def server() -> Iterator[str]:
    """The address of an echo server."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Echo) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def echoed(address: tuple[str, int], data: bytes) -> bool:
    with socket.create_connection(address, timeout=PATIENCE_S) as connection:
        connection.sendall(data)
        return connection.makefile("rb").read(len(data)) == data


def test_relays_stand_on_every_link_of_a_place_and_end_with_it(server: str, scratch: Path) -> None:
    """start_proxies gives each link a port of its own that leads to its server, and close takes them away."""
    place = HostPlace({})
    try:
        links = [Link("train0", "metaserver", "weights", server), Link("controller", "train0", "rpc", server)]
        relays = start_proxies(place, links, scratch / "relay.log")
        assert set(relays.dial) == {link.name for link in links}
        assert len(set(relays.dial.values())) == 2
        addresses = [(host, int(port)) for host, port in (value.split(":") for value in relays.dial.values())]
        for address in addresses:
            assert echoed(address, b"hello")
        assert set(requests.get(f"http://{relays.api}/proxies", timeout=PATIENCE_S).json()) == set(relays.dial)
    finally:
        place.close()
    for address in addresses:
        with pytest.raises(ConnectionRefusedError):
            echoed(address, b"hello")


def test_relays_that_cannot_come_up_say_why(scratch: Path) -> None:
    """A link whose address is malformed ends the relay process, and its last words reach the caller."""
    place = HostPlace({})
    try:
        with pytest.raises(PlaceError, match="host:port"):
            start_proxies(place, [Link("a", "b", "rpc", "nowhere")], scratch / "relay.log")
    finally:
        place.close()


def test_killed_relay_process_ends_its_links(server: str, scratch: Path) -> None:
    """After kill -9 the relays' ports refuse at once: no half-living link stays behind."""
    place = HostPlace({})
    try:
        relays = start_proxies(place, [Link("a", "b", "rpc", server)], scratch / "relay.log")
        host, port = relays.dial["a>b:rpc"].split(":")
        relays.process.signal(signal.SIGKILL)
        assert relays.process.wait(PATIENCE_S) == -signal.SIGKILL
        with pytest.raises(ConnectionRefusedError):
            echoed((host, int(port)), b"hello")
    finally:
        place.close()
