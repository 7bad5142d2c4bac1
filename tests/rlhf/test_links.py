"""Sockets of the job."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests

from rlhf import links
from rlhf.config import JobConfig


def _serve(text: str, host: str = "127.0.0.1") -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = f"{text} {self.client_address[0]} {self.client_address[1]}".encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer((host, 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def _table(path: Path, dial: str, bind: str = "127.0.0.1") -> None:
    table = {"bind": {"controller": bind}, "listen": {}, "dial": {"controller>train0:rpc": dial}, "host": {}}
    (path / "addresses.json").write_text(json.dumps(table))


def test_source_address_keep_alive_and_moved_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link dials from its source's address, keeps its connection, and follows the name table when it must dial again."""
    monkeypatch.setenv("JOB_DIR", str(tmp_path))
    first, second = _serve("first"), _serve("second", "127.0.0.3")
    _table(tmp_path, f"127.0.0.1:{first.server_port}", bind="127.0.0.7")
    with links.closing_session("controller", "train0", "rpc") as session:
        answers = [session.get("http://train0/", timeout=5).text.split() for _ in range(2)]
        assert answers[0] == answers[1], "the connection was not kept"
        assert answers[0][:2] == ["first", "127.0.0.7"]
        _table(tmp_path, f"127.0.0.3:{second.server_port}", bind="127.0.0.8")
        assert session.get("http://train0/", timeout=5).text.startswith("first")
        session.close()
        assert session.get("http://train0/", timeout=5).text.split()[:2] == ["second", "127.0.0.8"]
    first.shutdown()
    second.shutdown()


def test_refused_connection_and_unknown_link_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listening is a ConnectionError with a reason; a link that the table lacks is a LookupError by name."""
    monkeypatch.setenv("JOB_DIR", str(tmp_path))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        _table(tmp_path, f"127.0.0.1:{free.getsockname()[1]}")
        with links.closing_session("controller", "train0", "rpc") as session, pytest.raises(requests.ConnectionError) as caught:
            session.get("http://train0/", timeout=5)
    assert "refused" in str(caught.value.args[0].reason)
    with pytest.raises(LookupError, match="rollout0>reward:reward"):
        links.dial_address("rollout0", "reward", "reward")


def test_options_are_set_on_both_ends(job_folder: Callable[[JobConfig], object]) -> None:
    """A dialled and an accepted socket have the same congestion control and segment size as the listener asked for."""
    job_folder(JobConfig())
    with links.listen("train0", "rpc") as server, links.dial("controller", "train0", "rpc", 5) as client:
        accepted, _ = server.accept()
        with accepted:
            for end in (client, accepted):
                options = links.options_of(end)
                assert 1000 < int(options["segment_bytes"]) <= links.SEGMENT_BYTES
                assert options["congestion"] == links.options_of(server)["congestion"]
                assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_taken_port_is_named(job_folder: Callable[[JobConfig], object]) -> None:
    """A second listener at the same address fails with one sentence that names component and address."""
    job_folder(JobConfig())
    with links.listen("reward", "reward"), pytest.raises(OSError, match=r"reward cannot listen on 127\.0\.0\.1"):
        links.listen("reward", "reward")


def _one_by_one(answers: list[bytes]) -> tuple[socket.socket, threading.Semaphore]:
    """A listener that reads a request on each connection, sends one of the answers as it is, hangs up, and then counts it."""
    server, hung_up = socket.create_server(("127.0.0.1", 0)), threading.Semaphore(0)

    def serve() -> None:
        for answer in answers:
            stream, _ = server.accept()
            with stream:
                stream.recv(65536)
                stream.sendall(answer)
                stream.shutdown(socket.SHUT_WR)
                hung_up.release()
                stream.recv(65536)

    threading.Thread(target=serve, daemon=True).start()
    return server, hung_up


def test_what_goes_wrong_has_the_names_of_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No answer and half an answer are a ConnectionError, a late one is a ReadTimeout; after each the next call is served."""
    monkeypatch.setenv("JOB_DIR", str(tmp_path))
    good, half = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nok"
    server, hung_up = _one_by_one([good, b"", good, half, good, good])
    with server, socket.create_server(("127.0.0.1", 0)) as silent:
        _table(tmp_path, f"127.0.0.1:{server.getsockname()[1]}")
        with links.closing_session("controller", "train0", "rpc") as session:
            for problem in ("", "RemoteDisconnected", "IncompleteRead"):
                if problem:
                    with pytest.raises(requests.ConnectionError, match=f"Connection aborted.*{problem}"):
                        session.post("http://train0/", data=b"x" * 10, timeout=5)
                    assert hung_up.acquire(timeout=5)
                assert session.get("http://train0/", timeout=5).text == "ok", "an old connection was used"
                assert hung_up.acquire(timeout=5)
            assert session.get("http://train0/", timeout=5).text == "ok", "an old connection was used"
            session.close()
            _table(tmp_path, f"127.0.0.1:{silent.getsockname()[1]}")
            with pytest.raises(requests.ReadTimeout, match="Read timed out"):
                session.get("http://train0/", timeout=0.2)
