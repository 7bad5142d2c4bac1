"""Waiting for a server: what counts as ready, what is told, and how long it takes."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.resilience.readiness import HEALTH, STATUS, endpoint, look, wait_until_ready

Answer = tuple[int, bytes]


@contextmanager
def _server(answer: Callable[[str], Answer]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answer(self.path)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class Booting:
    """A training server: its web server answers /health at once, its workers exist after `questions` looks at the status."""

    def __init__(self, questions: int):
        self.left = questions

    def __call__(self, path: str) -> Answer:
        if path == HEALTH:
            return 200, b'{"status": "healthy"}'
        if path == STATUS:
            self.left -= 1
            return 200, json.dumps({"is_initialized": self.left < 0}).encode()
        return 404, b'{"detail": "Not Found"}'


def test_alive_is_not_ready() -> None:
    """A server that answers /health while its workers do not exist is alive and not ready."""
    with _server(Booting(1)) as url:
        assert look(url + HEALTH, 5.0) == ("HTTP 200", True)
        assert look(endpoint(url, live=True), 5.0) == ("HTTP 200", True)
        assert look(endpoint(url), 5.0) == ("HTTP 200, not initialized", False)
        assert look(endpoint(url), 5.0) == ("HTTP 200", True)
        assert look(url + "/elsewhere", 5.0) == ("HTTP 404", False)
    assert look(url + HEALTH, 5.0) == ("connection failed", False)


def test_silence_is_told_apart_from_nobody() -> None:
    """A server that takes the question and does not answer is a time-out, not a refusal."""
    release = threading.Event()
    with _server(lambda _: (200, b"{}") if release.wait(60) else (500, b"")) as url:
        assert look(url + HEALTH, 0.2) == ("no answer in time", False)
        release.set()


def test_what_each_attempt_saw_is_kept() -> None:
    """The tool's own example: connection failed, HTTP 404, HTTP 200, five seconds apart, and the total time."""
    answers, now, told = iter([("connection failed", False), ("HTTP 404", False), ("HTTP 200", True)]), [0.0], []
    done = wait_until_ready("u", told=told.append, ask=lambda *_: next(answers), sleep=_passing(now), clock=lambda: now[0])
    assert [(seen.attempt, seen.waited_s, seen.saw) for seen in done.sightings] == [
        (1, 0.0, "connection failed"),
        (2, 5.0, "HTTP 404"),
        (3, 10.0, "HTTP 200"),
    ]
    assert (done.ready, done.total_s) == (True, 10.0)
    assert tuple(told) == done.sightings


def _passing(now: list[float]) -> Callable[[float], None]:
    def sleep(seconds: float) -> None:
        now[0] += seconds

    return sleep


@given(timeout_s=st.floats(0.0, 1000.0), interval_s=st.floats(0.5, 100.0), each_s=st.floats(0.0, 10.0))
def test_the_time_is_kept(timeout_s: float, interval_s: float, each_s: float) -> None:
    """However slow the answers, a wait in vain lasts its time-out and hardly longer; questions are an interval apart."""
    now = [0.0]

    def ask(_: str, limit_s: float) -> tuple[str, bool]:
        now[0] += min(each_s, limit_s)
        return "no", False

    done = wait_until_ready("u", timeout_s, interval_s, ask=ask, sleep=_passing(now), clock=lambda: now[0])
    assert not done.ready
    assert timeout_s <= done.total_s + 1e-6 and done.total_s <= timeout_s + 0.05 + 1e-6
    gaps = [after.waited_s - before.waited_s for before, after in zip(done.sightings, done.sightings[1:], strict=False)]
    assert all(gap <= interval_s + each_s + 1e-6 for gap in gaps)


def test_the_command_waits_and_says_so() -> None:
    """`faultline wait` tells every attempt and the total; exit code 0 ready, 1 not, 2 for no URL; the same as JSON."""
    with _server(Booting(2)) as url:
        done = _command(url, "--interval", "0.05", "--timeout", "60")
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        assert lines[0] == f"waiting for {url}/api/v1/status, 60 s at most"
        assert [line.split(" (")[0] for line in lines[1:-1]] == [
            "attempt 1: HTTP 200, not initialized",
            "attempt 2: HTTP 200, not initialized",
            "attempt 3: HTTP 200",
        ]
        assert lines[-1].startswith("ready after ")
        told = json.loads(_command(url, "--json").stdout)
        assert told["ready"] is True and told["sightings"][0]["saw"] == "HTTP 200"
    late = _command(url, "--timeout", "0.1", "--interval", "0.05")
    assert late.returncode == 1 and "connection failed" in late.stdout and "not ready after 0." in late.stdout
    wrong = _command("localhost")
    assert wrong.returncode == 2 and "it looks like http://localhost:38001" in wrong.stderr


def _command(*words: str) -> subprocess.CompletedProcess[str]:
    argv = [str(Path(sys.executable).parent / "faultline"), "wait", *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)


@pytest.mark.parametrize("url", ["", "localhost:1", "ftp://x", "http://", "/status"])
def test_no_url_is_refused(url: str) -> None:
    """What is no URL of a server is refused in one sentence."""
    with pytest.raises(ValueError, match="not a URL of a server"):
        endpoint(url)
