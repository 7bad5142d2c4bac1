"""The restart protocol: routes that fit, a hung server that comes back, and what happens to requests meanwhile."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests

from adapters.native import free_ports
from rlhf.resilience.breaker import CircuitBreaker
from rlhf.resilience.readiness import wait_until_ready
from rlhf.resilience.restart import SKIPPED, RequestLostError, RestartingClient
from rlhf.resilience.restart_metrics import RestartMetrics
from rlhf.resilience.restart_protocol import HEALTH, RESTART, STATUS, RestartSettings, route_url
from rlhf.resilience.retry import RetryPolicy
from rlhf.resilience.supervisor import Supervisor

pytestmark = pytest.mark.job  # real processes, several seconds each

#: Short where something hangs, generous where a process must come back.
QUICK = RestartSettings(wait_s=60.0, request_timeout_s=5.0, base_s=0.01, ask_timeout_s=20.0, settle_s=0.01, poll_s=0.05)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A supervised server that hangs in its first life; its base URL ends in /v1, as such servers' do."""
    port = free_ports(["server"])["server"]
    argv = [sys.executable, "-m", "tests.rlhf.restartable_server", str(port), str(tmp_path)]
    supervisor = Supervisor(argv, CircuitBreaker(limit=5), RetryPolicy(attempts=1, base_s=0.05, cap_s=1.0))
    supervisor.start()
    assert wait_until_ready(f"http://127.0.0.1:{port}{HEALTH}", 100.0, 0.1).ready
    yield f"http://127.0.0.1:{port}/v1"
    supervisor.stop(grace_s=1.0)
    assert set(supervisor.exit_codes[:-1]) <= {0}, "a requested restart is a clean exit"


def test_client_and_server_share_their_routes(server: str) -> None:
    """Every route a client derives from a base URL with /v1 is served; appended to that base, as once done, each is a 404."""
    for route in (HEALTH, STATUS):
        assert requests.get(route_url(server, route), timeout=30).status_code == 200
        assert requests.get(server + route, timeout=30).status_code == 404
    assert requests.post(server + RESTART, timeout=30).status_code == 404
    assert requests.post(route_url(server, RESTART), timeout=30).json()["status"] == "restarting"


def test_the_first_timeout_restarts_and_the_request_is_sent_again(
    server: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A hung server is restarted at the first time-out, clears its caches, and the same request is answered by the new one."""
    caplog.set_level("INFO")
    client = RestartingClient(server, QUICK)
    assert client.post("/completions", {"prompt": "abc"}) == {"text": "cba"}
    assert (tmp_path / "seen").read_text().splitlines() == ["0 abc", "1 abc"]
    assert (tmp_path / "cleared").exists()
    told = [record.getMessage() for record in caplog.records if record.name == "rlhf.resilience.restart"]
    assert "API timeout on attempt 1/4 after" in told[0]
    assert told[1].startswith("Attempting to restart server at ") and told[2].startswith("Server restarted successfully after ")
    assert client.metrics.figures()["restart_success_ratio"] == 1.0


def test_requests_in_flight_are_queued_and_replayed(server: str, tmp_path: Path) -> None:
    """Of many requests one has the server restarted; idempotent ones are all answered, once; the other is told lost."""
    client, slow = RestartingClient(server, QUICK), RestartingClient(server, replace(QUICK, request_timeout_s=60.0))
    with ThreadPoolExecutor(9) as pool:
        futures = [pool.submit(client.post, "/completions", {"prompt": f"p{number}"}) for number in range(6)]
        once = pool.submit(slow.post, "/completions", {"prompt": "once"}, idempotent=False)
        assert [future.result(100)["text"] for future in futures] == [f"{number}p" for number in range(6)]
        with pytest.raises(RequestLostError, match="may have been carried out"):
            once.result(100)
    figures = client.metrics.figures()
    assert figures["restarts_count"] == 1.0
    seen = (tmp_path / "seen").read_text().splitlines()
    assert seen.count("0 once") == 1 and "1 once" not in seen
    assert sorted(line for line in seen if line.startswith("1 ")) == [f"1 p{number}" for number in range(6)]


def test_status_tells_what_it_does(server: str) -> None:
    """While a request hangs, /status names it with its id, path and seconds."""
    client = RestartingClient(server, replace(QUICK, enabled=False, attempts=1, request_timeout_s=4.0))
    with ThreadPoolExecutor(1) as pool:
        hanging = pool.submit(client.post, "/completions", {"prompt": "x"})
        while not (active := requests.get(route_url(server, STATUS), timeout=30).json()["active"]):
            assert not hanging.done()
        assert [entry["path"] for entry in active] == ["/v1/completions"]
        assert len(active[0]["request_id"]) == 8 and active[0]["seconds"] >= 0
        with pytest.raises(RequestLostError):
            hanging.result(100)


class Silent:
    """A server that takes completions and never answers, and counts what it is asked; it does not restart."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.release = threading.Event()
        silent = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                silent.asked.append(self.path)
                if self.path != RESTART:
                    silent.release.wait(60)
                self.send_response(503)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"

    def close(self) -> None:
        self.release.set()
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def silent() -> Iterator[Silent]:
    made = Silent()
    yield made
    made.close()


def _client(silent: Silent, sleep: Callable[[float], None] = lambda _: None, **changed: object) -> RestartingClient:
    skip = bool(changed.pop("skip", False))
    settings = replace(RestartSettings(request_timeout_s=0.2), **changed)
    return RestartingClient(silent.url, settings, skip_on_timeout=skip, sleep=sleep)


def test_switched_off_it_only_tries_again(silent: Silent) -> None:
    """Without ENABLE_SERVER_RESTART: four tries with 1, 2 and 4 s between, no restart, and an error in the end."""
    slept: list[float] = []
    with pytest.raises(RequestLostError, match="/completions: no answer after 4 attempts"):
        _client(silent, slept.append, enabled=False).post("/completions", {})
    assert silent.asked == ["/v1/completions"] * 4
    assert slept == [1.0, 2.0, 4.0]


def test_a_refused_restart_is_asked_once_a_request(silent: Silent) -> None:
    """A restart that fails is counted, not repeated for the same request, and the tries go on."""
    client = _client(silent)
    with pytest.raises(RequestLostError):
        client.post("/completions", {})
    assert silent.asked == ["/v1/completions", RESTART, *["/v1/completions"] * 3]
    assert client.metrics.figures()["restart_success_ratio"] == 0.0


def test_several_timeouts_before_a_restart(silent: Silent) -> None:
    """With a trigger of three time-outs in a row the restart comes after the third."""
    with pytest.raises(RequestLostError):
        _client(silent, timeouts_before_restart=3).post("/completions", {})
    assert silent.asked == [*["/v1/completions"] * 3, RESTART, "/v1/completions"]


def test_the_old_way_answers_with_a_text(silent: Silent) -> None:
    """In the legacy way a request given up is "answered" by a text and counted as skipped: a loss that looks like a sample."""
    client = _client(silent, skip=True)
    answer = client.post("/completions", {})
    assert isinstance(answer, str) and answer.startswith(SKIPPED)
    assert client.metrics.figures()["skipped_count"] == 1.0


def test_the_environment_is_obeyed() -> None:
    """Both variables by their names, their defaults, and a clear refusal of nonsense."""
    assert RestartSettings.from_environment({}) == RestartSettings(enabled=True, wait_s=30.0)
    given = {"ENABLE_SERVER_RESTART": "False", "SERVER_RESTART_WAIT_TIME": "45"}
    assert RestartSettings.from_environment(given) == RestartSettings(enabled=False, wait_s=45.0)
    for name, value in (
        ("ENABLE_SERVER_RESTART", "maybe"),
        ("SERVER_RESTART_WAIT_TIME", "soon"),
        ("SERVER_RESTART_WAIT_TIME", "0"),
    ):
        with pytest.raises(ValueError, match=name):
            RestartSettings.from_environment({name: value})
    scaled = RestartSettings().scaled(10.0)
    assert (scaled.request_timeout_s, scaled.wait_s, scaled.attempts, scaled.timeouts_before_restart) == (6.0, 3.0, 4, 1)


def test_frequency_counts_the_last_hour() -> None:
    """Restarts an hour are those of the window, however many there were before."""
    metrics = RestartMetrics()
    for at_s in (0.0, 5000.0, 8000.0, 8500.0):
        metrics.restarted(at_s, succeeded=at_s > 0)
    assert metrics.per_hour(8600.0) == 3.0
    assert metrics.per_hour(8600.0, window_s=1800.0) == 4.0
    assert metrics.figures()["restart_success_ratio"] == 0.75
