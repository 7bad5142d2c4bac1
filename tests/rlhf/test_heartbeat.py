"""Heartbeats: when a silent client is found out, what is said about it, and who pauses for it."""

from __future__ import annotations

import logging
import random
import socket
import threading
import time
from collections.abc import Callable

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hypothesis import given
from hypothesis import strategies as st

from rlhf.resilience.failure_detector import Cadence, FailureDetector, Sighting
from rlhf.resilience.grpc_client import GrpcClient
from rlhf.resilience.heartbeat import BEAT, SERVICE, HeartbeatSender
from rlhf.resilience.heartbeat_server import serve_heartbeats
from rlhf.resilience.neighbours import Neighbours
from rlhf.resilience.retry import RetryPolicy

NOMINAL = Cadence()


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_nominal_cadence_and_its_scaling() -> None:
    """30 s and 90 s; scaled they stay 1 to 3, and a beat is never faster than one a second."""
    assert (NOMINAL.interval_s, NOMINAL.timeout_s) == (30.0, 90.0)
    assert Cadence.scaled(1.0) == NOMINAL
    assert Cadence.scaled(10.0) == Cadence(3.0, 9.0)
    assert Cadence.scaled(360.0) == Cadence(1.0, 3.0)


@given(last_s=st.floats(0.0, 300.0), phase_s=st.floats(0.0, 30.0))
def test_detection_lies_between_the_timeout_and_one_check_later(last_s: float, phase_s: float) -> None:
    """Whenever the last beat and the checks fall, a client is found offline in (90, 120] s, and only once."""
    clock = Clock()
    detector = FailureDetector(NOMINAL, clock=clock)
    beats = [start for start in (last_s - 30.0 * n for n in range(20)) if start >= 0]
    checks = [phase_s + 30.0 * n for n in range(1, 25)]
    found = []
    for at, what in sorted([(at, "beat") for at in beats] + [(at, "check") for at in checks]):
        clock.now = at
        if what == "beat":
            detector.beat("c1")
        elif detector.check():
            found.append(at)
    assert len(found) == 1
    assert 90.0 - 1e-9 <= found[0] - last_s <= 120.0 + 1e-9


def test_offline_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """Beats are told at DEBUG only, an offline client by one WARNING however often it is checked, a rejoin at INFO."""
    caplog.set_level(logging.DEBUG)
    clock = Clock()
    detector = FailureDetector(NOMINAL, clock=clock)
    detector.expect("never")
    for _ in range(5):
        detector.beat("c1")
        clock.now += 30.0
        detector.check()
    assert {record.levelname for record in caplog.records if "c1" in record.getMessage()} == {"DEBUG"}
    for _ in range(10):
        clock.now += 30.0
        detector.check()
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == ["never is offline: no beat for 120.0 s", "c1 is offline: no beat for 120.0 s"]
    assert detector.beat("c1") and detector.alive() == ["c1"]
    assert caplog.records[-2].getMessage() == "c1 is back" and caplog.records[-2].levelname == "INFO"


def test_without_rejoin_offline_is_for_good() -> None:
    """In the way of the first version a client that was offline is skipped whatever it sends."""
    clock = Clock()
    detector = FailureDetector(NOMINAL, rejoin=False, clock=clock)
    detector.beat("c1")
    clock.now += 91.0
    assert detector.check() == ["c1"]
    assert not detector.beat("c1")
    assert detector.alive() == []


def test_off_is_not_dead() -> None:
    """A client that said it pauses is alive however long it is silent; once it resumed, silence counts again."""
    clock = Clock()
    detector = FailureDetector(NOMINAL, min_clients=1, clock=clock)
    detector.beat("c1", paused=True)
    clock.now += 10_000.0
    assert detector.check() == [] and "c1" in detector.alive() and detector.enough()
    detector.beat("c1")
    clock.now += 91.0
    assert detector.check() == ["c1"] and not detector.enough()


def test_training_pauses_below_the_threshold_and_resumes() -> None:
    """Below `min_clients` the controller waits; it goes on as soon as one rejoins, and gives up at its own limit."""
    clock = Clock()
    detector = FailureDetector(NOMINAL, min_clients=2, clock=clock)
    for name in ("c1", "c2"):
        detector.beat(name)
    assert detector.wait_for_enough(0.0)
    clock.now += 91.0
    detector.beat("c2")
    assert detector.check() == ["c1"]
    assert not detector.enough() and not detector.wait_for_enough(0.01)
    resumed = threading.Event()
    waiting = threading.Thread(target=lambda: detector.wait_for_enough(60.0) and resumed.set(), daemon=True)
    waiting.start()
    assert not resumed.wait(0.05)
    detector.beat("c1")
    assert resumed.wait(60.0)


def _until(what: Callable[[], bool]) -> None:
    """Wait for what a thread of this process does; a minute is more than any load makes of it."""
    end = time.monotonic() + 60.0
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_beats_late_by_half_an_interval_are_counted() -> None:
    """What is heard and what is missed are values, told once; who stands for one of those needed is chosen."""
    clock = Clock()
    told: list[str] = []
    detector = FailureDetector(NOMINAL, min_clients=1, clock=clock, told=told.append)
    detector.expect("store", counts=False)
    assert not detector.enough()
    detector.expect("c1")
    clock.now += 44.0
    detector.beat("store")
    assert detector.sightings() == [Sighting("store", 1, 0), Sighting("c1", 0, 0)]
    clock.now += 2.0
    assert detector.sightings() == [Sighting("store", 0, 0), Sighting("c1", 0, 1)]
    clock.now += 60.0
    assert [sighting.missed for sighting in detector.sightings()] == [1, 3]
    assert detector.mark_offline("c1", "refused") and not detector.mark_offline("c1", "again")
    assert (detector.absence("c1"), detector.offline(), detector.enough()) == ("c1 is offline: refused", ["c1"], False)
    detector.expect("c1")
    detector.mark_offline("c1", "refused")
    detector.beat("c1")
    assert told == ["c1"] * 3 and detector.absence("c1") == ""


def test_a_checker_that_stood_still_blames_nobody() -> None:
    """Time in which the server itself could hear nothing is nobody's silence."""
    clock = Clock()
    detector = FailureDetector(NOMINAL, clock=clock)
    detector.beat("c1")
    clock.now += 3600.0
    detector._forgive(3570.0)
    assert detector.check() == []
    clock.now += 61.0
    assert detector.check() == ["c1"]


def _client(address: str) -> GrpcClient:
    host, _, port = address.rpartition(":")
    return GrpcClient(lambda timeout_s: socket.create_connection((host, int(port)), timeout_s), SERVICE)


def _sender(name: str, address: str, cadence: Cadence) -> HeartbeatSender:
    return HeartbeatSender(name, "controller", _client(address), cadence, RetryPolicy(attempts=3, base_s=0.01))


def test_beats_travel_over_grpc() -> None:
    """A sender's beats arrive; pausing and resuming are heard at once; its silence is found out; a new one is back."""
    fast = Cadence(0.05, 1.0)
    detector = FailureDetector(fast, min_clients=1)
    server, address = serve_heartbeats("127.0.0.1:0", detector)
    detector.start()
    sender = _sender("train0", address, fast)
    sender.start()
    try:
        assert detector.wait_for_enough(60.0)
        sender.pause()
        _until(lambda: detector._clients["train0"].paused)
        sender.resume()
        _until(lambda: not detector._clients["train0"].paused)
        sender.stop()
        _until(lambda: not detector.enough())
        other = _sender("train1", address, fast)
        heard: list[frozenset[str]] = []
        other.heard = lambda _, offline: heard.append(offline)
        assert other.beat() and heard == [{"train0"}], "who beats is told who does not"
        again = _sender("train0", address, fast)
        assert again.beat() and "train0" in detector.alive()
        for one in (other, again):
            one.stop()
    finally:
        detector.stop()
        server.stop(None).wait(60)


def test_a_process_that_computes_beats() -> None:
    """Beats come from a thread of their own: who computes without a pause is busy, not silent."""
    detector = FailureDetector(Cadence(0.05, 30.0))
    server, address = serve_heartbeats("127.0.0.1:0", detector)
    sender = _sender("train0", address, Cadence(0.05, 30.0))
    sender.start()
    heard, end = 0, time.monotonic() + 60.0
    while heard < 5 and time.monotonic() < end:
        assert sum(number * number for number in range(100_000)) > 0
        heard += sum(seen.beats for seen in detector.sightings())
    assert heard >= 5
    sender.stop()
    server.stop(None).wait(60)


def test_the_standard_health_service_stands_beside_the_beat() -> None:
    """grpc.health.v1 says SERVING while the server runs, to gRPC's own client too; nonsense is refused with a sentence."""
    detector = FailureDetector(NOMINAL)
    server, address = serve_heartbeats("127.0.0.1:0", detector)
    client = _client(address)
    assert client.healthy(30.0)
    with pytest.raises(ValueError, match="gRPC status 3: a beat names its client and its number"):
        client.call(BEAT, {"client": 3}, 30.0)
    with pytest.raises(ValueError, match="gRPC status 12"):
        client.call("Nothing", {}, 30.0)
    raw = grpc.insecure_channel(address, options=(("grpc.enable_http_proxy", 0),))
    assert health_pb2_grpc.HealthStub(raw).Check(health_pb2.HealthCheckRequest(service=SERVICE)).status == 1
    for body in (b"", b"[]", b"{", b"\xff"):
        with pytest.raises(grpc.RpcError) as caught:
            raw.unary_unary(f"/{SERVICE}/{BEAT}")(body, timeout=30.0)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    raw.close()
    with pytest.raises(OSError, match=f"cannot listen on {address}"):
        serve_heartbeats(address, detector)
    server.stop(None).wait(60)
    assert not client.healthy(0.5)
    with pytest.raises(ConnectionError):
        client.call(BEAT, {"client": "c", "number": 1}, 0.5)
    client.close()


def test_a_server_that_is_lost_is_said_once_and_found_again(caplog: pytest.LogCaptureFixture) -> None:
    """A beat is tried three times; then the server is offline until its health service answers, and beats begin again."""
    detector = FailureDetector(NOMINAL)
    server, address = serve_heartbeats("127.0.0.1:0", detector)
    sender = _sender("c", address, Cadence(5.0, 15.0))
    figures: list[dict[str, float]] = []
    sender.told = figures.append
    assert sender.beat()
    server.stop(None).wait(60)
    assert [sender.beat() for _ in range(3)] == [False] * 3
    assert figures == [
        {"answered_count": True, "lost_count": False, "retries": 0},
        {"answered_count": False, "lost_count": True, "retries": 2},
    ]
    server, _ = serve_heartbeats(address, detector)
    assert sender.beat() and detector.alive() == ["c"]
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1 and warnings[0].startswith("controller is offline: ")
    sender.stop()
    server.stop(None).wait(60)


@given(answer=st.binary(max_size=200))
def test_whatever_answers_a_call_ends(answer: bytes) -> None:
    """Bytes that are no gRPC are a ConnectionError, never a hang and never an answer."""
    near, far = socket.socketpair()
    far.sendall(answer)
    far.shutdown(socket.SHUT_WR)
    client = GrpcClient(lambda _: near, SERVICE)
    with pytest.raises(ConnectionError):
        client.call(BEAT, {"client": "c", "number": 1}, 30.0)
    far.close()


class Peers:
    """A transport whose peers refuse as often as they are told to."""

    def __init__(self, **refusals: int):
        self.refusals, self.sent = refusals, []

    def __call__(self, name: str, message: dict) -> None:
        self.sent.append(name)
        if self.refusals.get(name, 0) > 0:
            self.refusals[name] -= 1
            raise ConnectionError(f"{name} refuses")


def test_a_send_is_tried_three_times_with_jitter() -> None:
    """Waits are 1 and 2 s plus up to a second each; a peer that answers the third time stays alive."""
    slept, peers = [], Peers(a=2)
    neighbours = Neighbours(["a", "b"], peers, sleep=slept.append, dice=random.Random(4))
    assert neighbours.send("a", {})
    assert peers.sent == ["a"] * 3
    assert 1.0 <= slept[0] <= 2.0 <= slept[1] <= 3.0 and slept != [1.0, 2.0]
    assert neighbours.alive() == ["a", "b"]


def test_a_lost_peer_is_marked_said_once_and_skipped(caplog: pytest.LogCaptureFixture) -> None:
    """After three refusals a peer is offline: one WARNING, no more sends, until it is heard of again."""
    peers = Peers(a=3)
    neighbours = Neighbours(["a", "b"], peers, sleep=lambda _: None)
    assert [neighbours.send("a", {}) for _ in range(3)] == [False] * 3
    neighbours.mark_offline("a", "told again")
    assert peers.sent == ["a"] * 3 and neighbours.alive() == ["b"]
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == ["a is offline: a refuses"]
    neighbours.mark_online("a")
    assert neighbours.send("a", {}) and neighbours.send("b", {})


def test_without_retry_the_sender_never_knows(caplog: pytest.LogCaptureFixture) -> None:
    """The legacy way: one try, no warning, the peer counts as alive and the message as sent."""
    peers = Peers(a=9)
    neighbours = Neighbours(["a"], peers, None)
    assert neighbours.send("a", {}) and neighbours.send("a", {})
    assert peers.sent == ["a", "a"] and neighbours.alive() == ["a"]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
