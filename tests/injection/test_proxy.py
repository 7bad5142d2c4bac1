"""The relay and its API: bytes pass unharmed, each toxic does what its name says, to old connections too, and nothing hangs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from aiohttp import web

from injection import proxy_api

PATIENCE_S = 30.0
REPOSITORY = Path(__file__).resolve().parents[2]


class Server:
    """Serves each connection on a thread: ``echo`` sends back, ``sink`` counts, ``still`` does not even read."""

    def __init__(self, manner: str) -> None:
        self.manner = manner
        self.received = 0
        self.ended = threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=(self.listener.accept()[0],), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            if self.manner == "still":
                self.ended.wait(PATIENCE_S)
                return
            while data := connection.recv(1 << 16):
                self.received += len(data)
                if self.manner == "echo":
                    connection.sendall(data)
            connection.sendall(b"the end")
        self.ended.set()


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    server = Server(getattr(request, "param", "echo"))
    yield server
    server.listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts; closing alone would not
    server.listener.close()


class Api:
    def __init__(self, address: str) -> None:
        self.base = f"http://{address}"

    def __call__(self, method: str, path: str, body: Any = None, **more: Any) -> tuple[int, Any]:
        answer = requests.request(method, self.base + path, json=body, timeout=PATIENCE_S, **more)
        return answer.status_code, answer.json() if answer.content else None


@pytest.fixture
def api(scratch: Path) -> Iterator[Api]:
    (scratch / "links.json").write_text("[]")
    ready = scratch / "ready.json"
    argv = [sys.executable, "-m", "injection.proxy", "--listen-api", "127.0.0.1:0"]
    process = subprocess.Popen([*argv, "--config", str(scratch / "links.json"), "--ready", str(ready)], cwd=REPOSITORY)
    deadline = time.monotonic() + PATIENCE_S
    while not ready.exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    yield Api(json.loads(ready.read_text())["api"])
    process.terminate()
    assert process.wait(PATIENCE_S) == 0


def link(api: Api, server: Server, name: str = "a>b:rpc") -> tuple[str, int]:
    status, proxy = api("POST", "/proxies", {"name": name, "listen": "127.0.0.1:0", "upstream": server.address})
    assert status == 201
    host, port = proxy["listen"].split(":")
    return host, int(port)


def toxic(api: Api, kind: str, stream: str = "downstream", **attributes: float) -> str:
    body = {"type": kind, "stream": stream, "attributes": attributes}
    status, made = api("POST", "/proxies/a%3Eb%3Arpc/toxics", body)
    assert status == 200, made
    return f"/proxies/a%3Eb%3Arpc/toxics/{made['name']}"


def dial(address: tuple[str, int]) -> socket.socket:
    return socket.create_connection(address, timeout=PATIENCE_S)


def exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = connection.recv(size - len(data))
        assert more, f"ended after {len(data)} of {size} bytes"
        data += more
    return data


def round_trip(connection: socket.socket, data: bytes = b"x") -> float:
    start = time.monotonic()
    connection.sendall(data)
    assert exactly(connection, len(data)) == data
    return time.monotonic() - start


def quickest(connection: socket.socket) -> float:
    """The least of some round trips: a busy machine lengthens some, a toxic all."""
    return min(round_trip(connection) for _ in range(5))


def test_bytes_pass_unharmed_and_half_closed(api: Api, server: Server) -> None:
    """Megabytes come back as sent; the client's end of stream reaches the server, whose last words still reach the client."""
    data = os.urandom(8 << 20)
    with dial(link(api, server)) as connection:
        sender = threading.Thread(target=lambda: (connection.sendall(data), connection.shutdown(socket.SHUT_WR)))
        sender.start()
        assert exactly(connection, len(data)) == data
        assert exactly(connection, 7) == b"the end"
        assert connection.recv(1) == b""
        sender.join()


def test_a_dead_upstream_looks_refused_and_may_come_later(api: Api) -> None:
    """Nobody listening upstream resets the client; once somebody listens, the same link works."""
    with socket.socket() as upstream:
        upstream.bind(("127.0.0.1", 0))  # bound, so that nobody else gets the port, but not listening
        one = {"name": "one", "listen": "127.0.0.1:0", "upstream": f"127.0.0.1:{upstream.getsockname()[1]}"}
        address = ("127.0.0.1", int(api("POST", "/proxies", one)[1]["listen"].split(":")[1]))
        with dial(address) as connection, pytest.raises(ConnectionResetError):
            connection.recv(1)
        upstream.listen()
        with dial(address) as connection, upstream.accept()[0] as accepted:
            connection.sendall(b"hello")
            assert exactly(accepted, 5) == b"hello"


@pytest.mark.parametrize("stream", ["upstream", "downstream"])
def test_latency_is_added_to_old_connections_and_taken_away(api: Api, server: Server, stream: str) -> None:
    """Each round trip through a delayed direction takes the delay longer, once; without the toxic it is quick again."""
    with dial(link(api, server)) as connection:
        assert quickest(connection) < 0.1
        path = toxic(api, "latency", stream, latency=300)
        assert 0.3 <= quickest(connection) < 0.45
        assert api("POST", path, {"attributes": {"latency": 200}})[1]["attributes"] == {"latency": 200, "jitter": 0}
        assert 0.2 <= quickest(connection) < 0.3
        assert api("DELETE", path)[0] == 204
        assert quickest(connection) < 0.1


def test_latency_delays_a_stream_once_and_not_each_chunk(api: Api, server: Server) -> None:
    """A delay holds everything equally, so a megabyte comes one delay later and not many."""
    with dial(link(api, server)) as connection:
        toxic(api, "latency", latency=300)
        data = os.urandom(1 << 20)
        sender = threading.Thread(target=connection.sendall, args=(data,))
        start = time.monotonic()
        sender.start()
        assert exactly(connection, len(data)) == data
        assert 0.3 <= time.monotonic() - start < 3
        sender.join()


@pytest.mark.parametrize("rate", [13.85, 400.0])
def test_bandwidth_is_what_was_asked_for_also_in_fractions(api: Api, server: Server, rate: float) -> None:
    """Bytes through a narrowed direction of an old connection take size/rate and little more, at 13.85 and at 400 KB/s."""
    size = int(rate * 1000)
    with dial(link(api, server)) as connection:
        toxic(api, "bandwidth", "upstream", rate=rate)
        assert 0.95 <= round_trip(connection, os.urandom(size)) < 1.5


def test_a_bystander_is_unaffected(api: Api, server: Server) -> None:
    """Another link of the same process keeps its speed while one is delayed and narrowed."""
    with dial(link(api, server)) as slow, dial(link(api, server, "c>d:rpc")) as other:
        toxic(api, "latency", latency=5000)
        toxic(api, "bandwidth", rate=1)
        slow.sendall(bytes(100_000))
        assert all(round_trip(other) < 1 for _ in range(20))


@pytest.mark.parametrize("server", ["still"], indirect=True)
def test_taking_a_toxic_off_under_back_pressure_never_blocks(api: Api, server: Server) -> None:
    """With every buffer full and nobody reading, the API still answers at once: list, remove, reset, delete."""
    with dial(link(api, server)) as connection:
        path = toxic(api, "bandwidth", "upstream", rate=1)
        connection.settimeout(1.0)
        with pytest.raises(TimeoutError):
            connection.sendall(bytes(64 << 20))
        start = time.monotonic()  # at 1 KB/s the buffers would take minutes
        assert api("GET", "/proxies")[0] == 200
        assert api("DELETE", path)[0] == 204
        assert api("POST", "/reset")[0] == 204
        assert api("DELETE", "/proxies/a%3Eb%3Arpc")[0] == 204
        assert time.monotonic() - start < 20
        server.ended.set()


@pytest.mark.parametrize("server", ["sink"], indirect=True)
def test_a_slow_link_holds_its_sender_back(api: Api, server: Server) -> None:
    """A sender cannot hand megabytes to a link that carries kilobytes: most of it stays with the sender."""
    with dial(link(api, server)) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        toxic(api, "bandwidth", "upstream", rate=10)
        connection.settimeout(1.0)
        taken = 0
        with contextlib.suppress(TimeoutError):
            while taken < 64 << 20:
                taken += connection.send(bytes(65536))
        assert taken < 3 << 20
        assert server.received <= 10_000 * 10


@pytest.mark.parametrize("server", ["sink"], indirect=True)
def test_the_intake_of_a_slow_link_keeps_its_rate(api: Api, server: Server) -> None:
    """The relay reads no faster than it may pass on: its receive buffer stays full while the link is slow."""
    address = link(api, server)
    with dial(address) as connection:
        toxic(api, "bandwidth", "upstream", rate=10)
        connection.sendall(bytes(100_000))
        time.sleep(1)
        unread = receive_queue(address[1], connection.getsockname()[1])
        assert 100_000 - unread - server.received < 4_000
        assert unread > 50_000


def receive_queue(port: int, peer: int) -> int:
    """Bytes that the kernel holds for the reader of the connection at local ``port`` from ``peer``."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, queues = line.split()[:5]
        if int(local.split(":")[1], 16) == port and int(remote.split(":")[1], 16) == peer:
            return int(queues.split(":")[1], 16)
    raise AssertionError("no such connection")


def test_reset_peer_resets_old_and_new_connections_at_their_next_data(api: Api, server: Server) -> None:
    """Both ends see a reset, not an orderly end; without the toxic new connections live."""
    address = link(api, server)
    with dial(address) as old:
        round_trip(old)
        path = toxic(api, "reset_peer", "upstream")
        old.sendall(b"x")
        with pytest.raises(ConnectionResetError):
            old.recv(1)
    with dial(address) as new:
        new.sendall(b"x")
        with pytest.raises(ConnectionResetError):
            new.recv(1)
    api("DELETE", path)
    with dial(address) as healed:
        round_trip(healed)


def test_timeout_drops_data_and_ends_the_connection(api: Api, server: Server) -> None:
    """With timeout nothing passes and the connection ends in time; with 0 it ends when the toxic is taken off."""
    address = link(api, server)
    with dial(address) as connection:
        round_trip(connection)
        path = toxic(api, "timeout", "upstream", timeout=400)
        start = time.monotonic()
        connection.sendall(b"x")
        assert connection.recv(1) == b""
        assert 0.3 <= time.monotonic() - start < 2
    api("PATCH", path, {"attributes": {"timeout": 0}})
    with dial(address) as connection:
        connection.sendall(b"x")
        connection.settimeout(0.5)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        connection.settimeout(PATIENCE_S)
        api("DELETE", path)
        assert connection.recv(1) == b""


def test_noop_and_toxicity_zero_change_nothing(api: Api, server: Server) -> None:
    """A noop carries every byte, and a toxic with toxicity 0 touches no connection."""
    with dial(link(api, server)) as connection:
        toxic(api, "noop")
        body = {"type": "latency", "toxicity": 0, "attributes": {"latency": 5000}}
        assert api("POST", "/proxies/a%3Eb%3Arpc/toxics", body)[0] == 200
        assert round_trip(connection, os.urandom(100_000)) < 2


def test_disabling_takes_a_link_down_and_reset_brings_it_back(api: Api, server: Server) -> None:
    """enabled=false ends connections and refuses new ones; /reset enables on the same port and takes all toxics off."""
    address = link(api, server)
    with dial(address) as connection:
        round_trip(connection)
        toxic(api, "latency", latency=5000)
        assert api("PATCH", "/proxies/a%3Eb%3Arpc", {"enabled": False})[1]["enabled"] is False
        assert connection.recv(1) == b""
    with pytest.raises(ConnectionRefusedError):
        dial(address)
    assert api("POST", "/reset")[0] == 204
    assert api("GET", "/proxies/a%3Eb%3Arpc/toxics") == (200, [])
    with dial(address) as connection:
        assert round_trip(connection) < 1


def test_the_api_answers_as_toxiproxy_does(api: Api, server: Server) -> None:
    """Status codes, bodies and names follow Toxiproxy's table, from creation to deletion."""
    one = {"name": "one", "listen": "127.0.0.1:0", "upstream": server.address}
    status, made = api("POST", "/proxies", one)
    assert (status, made["name"], made["enabled"], made["toxics"]) == (201, "one", True, [])
    assert api("GET", "/proxies") == (200, {"one": made})
    assert api("GET", "/proxies/one") == (200, made)
    status, latency = api("POST", "/proxies/one/toxics", {"type": "latency", "attributes": {"latency": 5}})
    shown = {"name": "latency_downstream", "type": "latency", "stream": "downstream", "toxicity": 1.0}
    assert (status, latency) == (200, {**shown, "attributes": {"latency": 5, "jitter": 0}})
    assert api("GET", "/proxies/one/toxics/latency_downstream") == (200, latency)
    status, changed = api("PATCH", "/proxies/one/toxics/latency_downstream", {"toxicity": 0.5, "attributes": {"jitter": 2}})
    assert (status, changed["toxicity"], changed["attributes"]) == (200, 0.5, {"latency": 5, "jitter": 2})
    assert api("GET", "/proxies/one/toxics") == (200, [changed])
    assert api("DELETE", "/proxies/one/toxics/latency_downstream")[0] == 204
    status, answer = api("POST", "/populate", [{**one, "listen": made["listen"]}, {**one, "name": "two"}])
    assert (status, [proxy["name"] for proxy in answer["proxies"]]) == (201, ["one", "two"])
    assert answer["proxies"][0]["listen"] == made["listen"]
    assert api("DELETE", "/proxies/one")[0] == 204
    assert list(api("GET", "/proxies")[1]) == ["two"]
    assert set(api("GET", "/version")[1]) == {"version"}


ERRORS: list[tuple[str, str, Any, int, str]] = [
    ("GET", "/proxies/none", None, 404, "proxy not found"),
    ("DELETE", "/proxies/none", None, 404, "proxy not found"),
    ("GET", "/proxies/one/toxics/none", None, 404, "toxic not found"),
    ("POST", "/proxies", {"name": "one", "upstream": "127.0.0.1:1"}, 409, "proxy already exists"),
    ("POST", "/proxies", {"upstream": "127.0.0.1:1"}, 400, "missing required field: name"),
    ("POST", "/proxies", {"name": "two"}, 400, "missing required field: upstream"),
    ("POST", "/proxies", {"name": "two", "listen": "x", "upstream": "127.0.0.1:1"}, 400, "host:port"),
    ("POST", "/proxies", [], 400, "bad request body"),
    ("POST", "/populate", {}, 400, "bad request body"),
    ("POST", "/populate", [{"name": "two"}], 400, "missing required field: upstream"),
    ("POST", "/proxies/one/toxics", {"type": "fog"}, 400, "fog"),
    ("POST", "/proxies/one/toxics", {"type": "noop", "stream": "sideways"}, 400, "stream was invalid"),
    ("POST", "/proxies/one/toxics", {"type": "noop"}, 409, "toxic already exists"),
    ("POST", "/proxies/one/toxics", {"type": "latency", "attributes": {"latency": -1}}, 400, "latency"),
    ("POST", "/proxies/one/toxics", {"type": "latency", "attributes": {"delay": 1}}, 400, "delay"),
    ("POST", "/proxies/one/toxics", {"type": "bandwidth", "attributes": {"rate": 0}}, 400, "rate"),
    ("POST", "/proxies/one/toxics", {"type": "latency", "toxicity": 2}, 400, "toxicity"),
    ("PATCH", "/proxies/one/toxics/noop_downstream", {"toxicity": "much"}, 400, "toxicity"),
]


def test_errors_have_the_right_status_and_say_why(api: Api, server: Server) -> None:
    """Every refusal is ``{"error", "status"}`` with Toxiproxy's status, names the matter, and changes nothing."""
    one = {"name": "one", "listen": "127.0.0.1:0", "upstream": server.address}
    api("POST", "/proxies", one)
    api("POST", "/proxies/one/toxics", {"type": "noop"})
    before = api("GET", "/proxies")
    for method, path, body, status, words in ERRORS:
        answer = api(method, path, body)
        assert answer[0] == status == answer[1]["status"], (method, path, body, answer)
        assert words in answer[1]["error"], answer
    taken = {**one, "name": "two", "listen": server.address}
    assert api("POST", "/proxies", taken)[0] == 500
    assert api("GET", "/proxies", headers={"User-Agent": "Mozilla/5.0"})[0] == 403
    assert requests.post(api.base + "/proxies", data="{", timeout=PATIENCE_S).status_code == 400
    assert api("GET", "/proxies") == before


def test_a_body_that_never_comes_is_a_503(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that is not complete within the API's patience is answered, and holds nobody else up."""

    async def ask() -> tuple[bytes, bytes]:
        runner = web.AppRunner(proxy_api.Api().application())
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        (stalled, late), (other, writer) = [await asyncio.open_connection(*runner.addresses[0][:2]) for _ in range(2)]
        late.write(b"POST /proxies HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n")
        writer.write(b"GET /version HTTP/1.1\r\nHost: a\r\n\r\n")
        answers = await other.readline(), await asyncio.wait_for(stalled.readline(), PATIENCE_S)
        await runner.cleanup()
        return answers

    monkeypatch.setattr(proxy_api, "PATIENCE_S", 0.3)
    answered, given_up = asyncio.run(ask())
    assert b" 200 " in answered and b" 503 " in given_up
