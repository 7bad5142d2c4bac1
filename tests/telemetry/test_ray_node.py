"""Ray's own figures, from the page of an agent: what one said, over a real connection, and what is no page."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.ray_node import RAY_METRICS, RayNodeSource, figures, page_port

#: Of the page of a head node of Ray 2.60 with three actors, one of them killed, and an object of 5 MiB.
PAGE = Path(__file__).with_name("ray_page.txt").read_bytes()
OK = b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n"


@pytest.fixture
def agent(tmp_path):
    """A listener, and the folder of a node that says it is its agent's."""
    listener = socket.create_server(("127.0.0.1", 0))
    session = tmp_path / "session_2026-01-01_00-00-00_000000_1"
    session.mkdir()
    (session / "metrics_export_port_0a1b").write_text(str(listener.getsockname()[1]))
    yield listener
    listener.close()


def answer(listener: socket.socket, text: bytes) -> None:
    connection, _ = listener.accept()
    with connection:
        assert connection.recv(1000).startswith(b"GET /metrics HTTP/1.0\r\n")
        for start in range(0, len(text), 3000):
            connection.sendall(text[start : start + 3000])


def told(source: RayNodeSource, mono_s: float) -> list:
    deadline = time.monotonic() + 60
    while not (rows := list(source.read(mono_s))):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return rows


def test_actors_and_store_of_a_node_come_from_its_page(agent, tmp_path):
    """The page of a real node, as it comes piece by piece: every figure in its unit; the next page is asked for later."""
    source = RayNodeSource({"control": (tmp_path, "127.0.0.1")}, 10.0)
    for mono_s in (10.0, 20.0):
        serving = threading.Thread(target=answer, args=(agent, OK + PAGE + b"# filling\n" * 30_000))
        serving.start()
        ((host, component, metrics, values),) = told(source, mono_s)
        serving.join()
        assert (host, component, metrics) == ("control", "control", RAY_METRICS) and source.lacks == ""
        assert values == [5243134.0, 78642946.0, 0.0, 1.0, 2.0, 0.0, 1.0]
        assert list(source.read(mono_s + 9)) == []
    source.close()


def test_an_agent_that_hangs_or_has_gone_is_missed(agent, tmp_path):
    """No answer within the beat: null, and it is asked anew; nobody listens any more: null, at once."""
    source = RayNodeSource({"control": (tmp_path, "127.0.0.1")}, 10.0)
    nothing = [("control", "control", RAY_METRICS, [None] * len(RAY_METRICS))]
    assert list(source.read(10.0)) == [] and list(source.read(15.0)) == []
    assert list(source.read(20.0)) == nothing
    agent.close()
    assert told(source, 25.0) == nothing
    assert list(source.read(30.0)) == [] and told(source, 35.0) == nothing
    source.close()


def test_a_node_without_a_page_is_told(tmp_path):
    """No session yet, -1 for a port, nonsense for a port: nothing is asked, and why is said."""
    source = RayNodeSource({"control": (tmp_path, "127.0.0.1")}, 10.0)
    session = tmp_path / "session_1"
    for text in ("", "-1", "x"):
        if text:
            session.mkdir(exist_ok=True)
            (session / "metrics_export_port_0a1b").write_text(text)
        assert page_port(tmp_path) == -1 and list(source.read(10.0)) == []
        assert source.lacks == "no node of Ray has a page of metrics"
    source.close()
    assert RayNodeSource({}, 10.0).lacks == "no node of Ray was named"


@given(st.binary(max_size=200))
def test_what_is_no_page_has_no_figures(junk):
    """Another status, or anything at all: null throughout. A node that is no head tells nothing of actors."""
    assert set(figures(junk)) == set(figures(b"HTTP/1.1 500 " + junk)) == {None}
    for value in (b"NaN", b"+Inf", b"1e999", b"1.2.3", b"-"):
        assert figures(OK + b'ray_object_store_used_memory{A="b"} ' + value)[0] is None
    workers = b"\n".join(line for line in PAGE.split(b"\n") if b"gcs" not in line)
    assert figures(OK + workers) == [5243134.0, 78642946.0, 0.0, 1.0, None, None, None]
