"""Calls between controller and workers: what is answered, what is retried, what is final."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlhf import links, wire
from rlhf.config import FLOORS_S, JobConfig
from rlhf.rpc import CALL, CREATION, RpcClient, RpcError
from rlhf.rpc_server import BODY_LIMIT_BYTES, BadRequestError, RpcServer
from rlhf.stats import StatsTracker

CONFIG = JobConfig(time_scale=1000.0)


class Callee:
    """A served component whose engine does as the method's name says."""

    def __init__(self, body_read_s: float = 5.0):
        self.calls: list[str] = []
        self.threads: set[int] = set()
        self.release = threading.Event()
        self._server = RpcServer(links.listen("train0", "rpc"), body_read_s, self._serve)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def _serve(self, path: str, meta: dict, tensors: dict) -> tuple[dict, dict]:
        method = meta.get("method", path)
        self.calls.append(method)
        self.threads.add(threading.get_ident())
        if method == "echo":
            return meta, {name: tensor * 2 for name, tensor in tensors.items()}
        if method == "nonsense":
            raise BadRequestError("no such thing")
        if method == "wait":
            assert self.release.wait(30)
            return {}, {}
        raise RuntimeError(f"{method} broke")

    def stop(self) -> None:
        self.release.set()
        self._server.stop()
        self._thread.join(30)


@pytest.fixture(autouse=True)
def _folder(job_folder: Callable[[JobConfig], object]) -> None:
    job_folder(CONFIG)


@pytest.fixture
def callee() -> Iterator[Callee]:
    served = Callee()
    yield served
    served.stop()


@pytest.fixture
def client(tmp_path: Path) -> Iterator[RpcClient]:
    with StatsTracker(tmp_path / "controller.jsonl", "controller") as stats:
        made = RpcClient("train0", CONFIG, stats)
        yield made
        made.close()


def _raw(request: bytes, shut: bool = False) -> bytes:
    """What the server answers to bytes as they are."""
    with socket.create_connection(links.listen_address("train0", "rpc"), timeout=30) as stream:
        stream.sendall(request)
        if shut:
            stream.shutdown(socket.SHUT_WR)
        return stream.recv(65536)


def test_figures_and_tensors_go_there_and_back(callee: Callee, client: RpcClient) -> None:
    """A call carries its arguments and tensors; all calls are served by one thread."""
    figures, tensors = client.call("echo", 5.0, {"x": torch.arange(3.0)}, step=4)
    assert figures == {"method": "echo", "arguments": {"step": 4}}
    assert tensors["x"].tolist() == [0.0, 2.0, 4.0]
    client.call("echo", 5.0)
    assert len(callee.threads) == 1


def test_an_engines_exception_is_final(
    callee: Callee, client: RpcClient, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Any exception is a 500 with text and traceback; it is logged with its request id, told, and not tried again."""
    with pytest.raises(RpcError) as caught:
        client.call("explode", 5.0)
    assert callee.calls == ["explode"]
    assert caught.value.status == 500
    assert caught.value.summary == "train0: HTTP 500: Exception: explode broke"
    assert "Traceback" in caught.value.text
    told = [record.getMessage() for record in caplog.records if record.getMessage().startswith("Non-retryable")]
    assert len(told) == 1 and told[0].startswith("Non-retryable HTTP error: 500 - Exception: explode broke")
    assert "request_id=" in told[0]
    lines = map(json.loads, (tmp_path / "controller.jsonl").read_text().splitlines())
    figures = {line["metric"]: line["value"] for line in lines}
    assert figures.pop("rpc/explode/latency_s") > 0
    assert figures == {"rpc/explode/retries": 0, "rpc/explode/failed_count": 1, "rpc/explode/status_code": 500}


def test_nonsense_is_a_400_with_a_sentence(callee: Callee, client: RpcClient) -> None:
    """What makes no sense is answered with 400, and is final."""
    with pytest.raises(RpcError, match="HTTP 400: no such thing"):
        client.call("nonsense", 5.0)


def test_nobody_there_is_tried_three_times_more(client: RpcClient, caplog: pytest.LogCaptureFixture) -> None:
    """A connection that cannot be made is retried three times, then given up with the address."""
    address = links.dial_address("controller", "train0", "rpc")
    with pytest.raises(RpcError, match=f"Max retries exceeded for http://{address}/call"):
        client.call("echo", 5.0)
    retries = [record.getMessage() for record in caplog.records if "Retrying in 1 second..." in record.getMessage()]
    assert [text.split("(")[-1][:3] for text in retries] == ["1/3", "2/3", "3/3"]


def test_create_engine_waits_for_a_worker_to_come_up(client: RpcClient, caplog: pytest.LogCaptureFixture) -> None:
    """Creating an engine is tried sixty times more, ten nominal seconds apart: a worker that listens late is no error."""
    assert (len(CREATION.waits_s()), set(CREATION.waits_s())) == (60, {10.0})
    served: list[Callee] = []
    late = threading.Timer(0.15, lambda: served.append(Callee()))
    late.start()
    with pytest.raises(RpcError, match="HTTP 500: Exception: /create_engine broke"):
        client.create_engine()
    late.join()
    served[0].stop()
    retries = [record.getMessage() for record in caplog.records if "Retrying in 10 seconds..." in record.getMessage()]
    assert len(retries) > 3 and "(1/60)" in retries[0], "more often than any other call"
    assert served[0].calls == ["/create_engine"], "an engine that could not be made is final"


def test_no_answer_in_time_is_final(callee: Callee, client: RpcClient) -> None:
    """A request that was sent and not answered may have been carried out: it is not repeated."""
    with pytest.raises(RpcError, match=r"Request timeout after 0\.3s"):
        client.call("wait", 0.3)
    assert callee.calls == ["wait"]


def test_busy_looks_like_hung(callee: Callee, client: RpcClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """/health is answered when idle and not during a call."""
    assert client.healthy()
    waiting = threading.Thread(target=lambda: client.call("wait", 30.0))
    waiting.start()
    while "wait" not in callee.calls:
        assert waiting.is_alive()
    with monkeypatch.context() as patched, StatsTracker(tmp_path / "other.jsonl", "controller") as stats:
        patched.setitem(FLOORS_S, "health", 0.3)
        other = RpcClient("train0", CONFIG, stats)
        assert not other.healthy()
        other.close()
    callee.release.set()
    waiting.join(30)
    assert client.healthy()


def test_a_body_that_stalls_is_a_408_and_is_retried(client: RpcClient) -> None:
    """A body not read in time is answered with 408; a caller tells so and sends the whole again, three times."""
    served = Callee(body_read_s=0.2)
    head = f"POST {CALL} HTTP/1.1\r\nContent-Length: 100\r\n\r\n".encode()
    assert _raw(head + b"half").startswith(b"HTTP/1.1 408 ")
    assert served.calls == []
    served.stop()
    stop, seen = _always_408()
    with pytest.raises(RpcError, match="Max retries exceeded"):
        client.call("echo", 5.0)
    stop()
    assert len(seen) == 4
    assert len(set(seen)) == 1, "a retry is the same request"


def _always_408() -> tuple[Callable[[], None], list[str]]:
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            seen.append(self.headers["X-Request-Id"])
            self.send_response(408)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(links.listen_address("train0", "rpc"), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def stop() -> None:
        server.shutdown()
        server.server_close()

    return stop, seen


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=st.one_of(st.binary(max_size=300), st.binary(max_size=40).map(lambda tail: wire.encode({"method": "echo"}, {}) + tail))
)
def test_any_body_gets_an_answer(callee: Callee, body: bytes) -> None:
    """Whatever the bytes, the answer is 200 for a message and 400 with a reason otherwise; the server goes on."""
    head = f"POST {CALL} HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    answer = _raw(head + body)
    whole = body == wire.encode({"method": "echo"}, {})
    assert answer.startswith(b"HTTP/1.1 200 " if whole else b"HTTP/1.1 400 "), answer


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"POST /call HTTP/1.1\r\n\r\n", 411),
        (b"POST /call HTTP/1.1\r\nContent-Length: -4\r\n\r\n", 411),
        (f"POST /call HTTP/1.1\r\nContent-Length: {BODY_LIMIT_BYTES + 1}\r\n\r\n".encode(), 413),
        (b"POST /nowhere HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 404),
        (b"GET /call HTTP/1.1\r\n\r\n", 404),
        (b"POST /call HTTP/1.1\r\nContent-Length: 9\r\n\r\nshort", 400),
    ],
)
def test_bad_requests_have_their_status(callee: Callee, request_: bytes, status: int) -> None:
    """Missing or absurd lengths, unknown paths and truncated bodies are told apart, and nothing is called."""
    assert _raw(request_, shut=True).startswith(f"HTTP/1.1 {status} ".encode())
    assert callee.calls == []


def test_latency_retries_and_outcome_are_recorded(callee: Callee, client: RpcClient, tmp_path: Path) -> None:
    """Each call leaves latency, retries and outcome in the stats, about the callee and without its rank in the metric."""
    client.call("echo", 5.0)
    with pytest.raises(RpcError):
        client.call("explode", 5.0)
    text = (tmp_path / "controller.jsonl").read_text()
    assert [
        f'"component": "train0", "metric": "rpc/{name}/{key}"' in text
        for name in ("echo", "explode")
        for key in ("latency_s", "retries")
    ] == [True] * 4
    failed = [line for line in text.splitlines() if "failed_count" in line]
    assert ['"value": 0.0' in failed[0], '"value": 1.0' in failed[1]] == [True, True]
