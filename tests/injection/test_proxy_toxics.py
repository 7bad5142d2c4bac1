"""The toxics that end, cut up or limit a stream, what is counted, and a client that others have written."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from toxiproxy import Toxiproxy

from tests.injection.test_proxy import Api, Server, api, dial, exactly, link, server, toxic

__all__ = ["api", "server"]

DELAY_S = 0.4


def test_slow_close_holds_the_end_and_not_the_data(api: Api, server: Server) -> None:
    """Bytes come at once, the end of the stream by the delay later; taken off meanwhile, it comes at once too."""
    address = link(api, server)
    for taken_off in (False, True):
        path = toxic(api, "slow_close", delay=1000 * DELAY_S if not taken_off else 60_000)
        with dial(address) as connection:
            connection.sendall(b"x")
            began = time.monotonic()
            assert exactly(connection, 1) == b"x"
            assert time.monotonic() - began < DELAY_S
            connection.shutdown(1)
            assert exactly(connection, len(b"the end")) == b"the end"
            if taken_off:
                api("DELETE", path)
            began = time.monotonic()
            assert connection.recv(1) == b""
            assert taken_off or time.monotonic() - began >= DELAY_S / 2
        if not taken_off:
            api("DELETE", path)


def test_a_slicer_passes_slices_with_pauses_and_every_byte(api: Api, server: Server) -> None:
    """1000 bytes in slices of 100 ± 10 with 10 ms before each: all arrive, in order, in small parts, not too soon."""
    address = link(api, server)
    toxic(api, "slicer", average_size=100, size_variation=10, delay=10_000)
    sent = bytes(range(250)) * 4
    with dial(address) as connection:
        began, got, most = time.monotonic(), b"", 0
        connection.sendall(sent)
        while len(got) < len(sent):
            part = connection.recv(1 << 16)
            got, most = got + part, max(most, len(part))
            time.sleep(0)
        assert got == sent
        assert time.monotonic() - began >= 9 * 0.01
        assert most < len(sent)


@pytest.mark.parametrize("limit", [0, 1, 1000])
def test_limit_data_closes_after_so_many_bytes(api: Api, server: Server, limit: int) -> None:
    """So many bytes arrive, then the end; the next connection has as many again."""
    address = link(api, server)
    toxic(api, "limit_data", bytes=limit)
    for _ in range(2):
        with dial(address) as connection:
            connection.sendall(bytes(5000))
            got = b""
            while part := connection.recv(1 << 16):
                got += part
            assert len(got) == limit


def test_bytes_are_counted_by_direction(api: Api, server: Server) -> None:
    """Received and sent bytes of a link, those of connections that are over included, as Prometheus reads them."""
    address = link(api, server)
    for _ in range(2):
        with dial(address) as connection:
            connection.sendall(bytes(100))
            exactly(connection, 100)
    told = requests.get(f"{api.base}/metrics", timeout=10).text
    for what in ("received", "sent"):
        for direction in ("upstream", "downstream"):
            start = f'toxiproxy_proxy_{what}_bytes_total{{direction="{direction}",proxy="a>b:rpc"'
            (line,) = [line for line in told.splitlines() if line.startswith(start)]
            assert int(line.split()[-1]) in (200, 207, 214)  # the server says goodbye, if it gets the time


@pytest.fixture
def client(api: Api) -> Iterator[Toxiproxy]:
    """Written by others for Toxiproxy."""
    one = Toxiproxy()
    host, port = api.base.removeprefix("http://").split(":")
    one.update_api_consumer(host, int(port))
    yield one
    one.destroy_all()


def test_the_client_of_others_drives_it(client: Toxiproxy, server: Server, scratch: Path) -> None:
    """toxiproxy-python, unchanged: version, create, find, toxics of every type, down, populate, reset, destroy."""
    assert client.running() and client.version() is not None
    proxy = client.create(name="one", upstream=server.address, listen="127.0.0.1:0")
    assert client.get_proxy("one").upstream == server.address
    kinds = {
        "latency": {"latency": 10, "jitter": 1},
        "bandwidth": {"rate": 100},
        "slow_close": {"delay": 10},
        "timeout": {"timeout": 1000},
        "reset_peer": {"timeout": 1000},
        "slicer": {"average_size": 10, "size_variation": 1, "delay": 1},
        "limit_data": {"bytes": 100},
        "noop": {},
    }
    for kind, attributes in kinds.items():
        proxy.add_toxic(type=kind, attributes=attributes)
        found = proxy.get_toxic(f"{kind}_downstream")
        assert (found.type, found.attributes) == (kind, attributes)
    client.reset()
    assert proxy.toxics() == {}
    with proxy.down():
        assert not client.get_proxy("one").enabled
    assert client.get_proxy("one").enabled
    client.populate([{"name": "two", "upstream": server.address, "listen": "127.0.0.1:0"}])
    assert set(client.proxies()) == {"one", "two"}
    client.destroy_all()
    assert client.proxies() == {}
