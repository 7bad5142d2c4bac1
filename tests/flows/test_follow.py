"""Following a run from outside, against a server of our own that plays a short run."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import pytest

from flows import follow
from flows.api import Api, ServerError
from flows.follow import Follower
from injection.procfs import Identity


class PlayedApi:
    """Answers like a server: each look is one step further in a run of one cell. Lines come late and overlap."""

    def __init__(self) -> None:
        self.look = 0
        self.asked: list[list[str]] = []

    def flow_run(self, _: str) -> dict[str, Any]:
        self.look += 1
        state = ("SCHEDULED", "RUNNING", "RUNNING", "COMPLETED")[min(self.look, 4) - 1]
        return {"id": "m", "name": "matrix", "state_type": state, "state_name": state.title()}

    def children(self, _: str) -> list[dict[str, Any]]:
        child = {"id": "c", "name": "cell", "state_name": "Running" if self.look < 4 else "Failed"}
        return [child] if self.look > 1 else []

    def logs(self, runs: list[str], _: str) -> list[dict[str, Any]]:
        self.asked.append(runs)
        lines = [
            ("l1", "faultline", "launched\nsecond line"),
            ("l2", "prefect.flow_runs", "noise"),
            ("l3", "faultline", "late"),
        ]
        stamp = "2026-01-01T00:00:00+00:00"
        return [{"id": i, "name": n, "message": m, "timestamp": stamp} for i, n, m in lines[: self.look]]


def test_each_state_and_line_is_shown_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A follower shows every change of state and every line of the lab once, and nobody else's."""
    monkeypatch.setattr(follow, "POLL_S", 0)
    api, shown = PlayedApi(), []
    end = Follower(api, "m", lambda text: shown.append(text.split("] ")[1])).to_the_end()  # type: ignore[arg-type]
    assert end["state_type"] == "COMPLETED"
    assert shown == [
        "matrix: scheduled",
        "launched",
        "matrix: running",
        "cell: running",
        "late",
        "matrix: completed",
        "cell: failed",
    ]
    assert api.asked[0] == ["m"]
    assert api.asked[-1] == ["m", "c"]


def test_no_server_is_one_sentence() -> None:
    """Where nobody listens, the error says where a server was looked for."""
    with pytest.raises(ServerError, match="no Prefect server answers at http://127"):
        Api("http://127.0.0.1:9/api").flow_run("x")


def test_waiting_ends_with_the_server_process() -> None:
    """A wait for health gives up as soon as the server's process is gone, long before its time is over."""
    gone = Identity(2**22 - 1, 1)
    with pytest.raises(ServerError, match="ended while starting"):
        Api("http://127.0.0.1:9/api").wait_healthy(gone, within_s=3600)


@pytest.fixture
def busy_server() -> Iterator[tuple[str, list[bytes]]]:
    """A server that is busy twice before it answers; its address and the bodies that it got."""
    got: list[bytes] = []

    class Busy(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(503 if len(got) < 3 else 200)
            self.end_headers()
            self.wfile.write(b'{"id": "x"}')

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Busy)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/api", got
    server.shutdown()
    server.server_close()


def test_a_busy_server_is_asked_again(busy_server: tuple[str, list[bytes]]) -> None:
    """A locked database (503) is no reason to give a matrix up: the same request is sent again."""
    url, got = busy_server
    assert Api(url).call("POST", "/x", {"a": 1}) == {"id": "x"}
    assert got == [b'{"a": 1}'] * 3


def test_patience_ends(busy_server: tuple[str, list[bytes]]) -> None:
    """Without patience a busy server is an error that says so."""
    with pytest.raises(ServerError, match="503"):
        Api(busy_server[0]).call("POST", "/x", {}, patience_s=0)
