"""Heartbeats: when a silent client is found out, what is said about it, and who pauses for it."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.resilience.failure_detector import Cadence, FailureDetector
from rlhf.resilience.grpc_json import JsonClient
from rlhf.resilience.heartbeat import BEAT, SERVICE, HeartbeatSender, serve_heartbeats
from rlhf.resilience.neighbours import Neighbours

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
    assert detector.check() == [] and detector.is_alive("c1") and detector.enough()
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


def test_beats_travel_over_grpc() -> None:
    """A sender's beats arrive; pausing and resuming are heard at once; its silence is found out; a new one is back."""
    fast = Cadence(0.05, 1.0)
    detector = FailureDetector(fast, min_clients=1)
    server, address = serve_heartbeats("127.0.0.1:0", detector)
    detector.start()
    sender = HeartbeatSender("train0", address, fast)
    sender.start()
    try:
        assert detector.wait_for_enough(60.0)
        sender.pause()
        _until(lambda: detector._clients["train0"].paused)
        sender.resume()
        _until(lambda: not detector._clients["train0"].paused)
        sender.stop()
        _until(lambda: not detector.enough())
        again = HeartbeatSender("train0", address, fast)
        assert again.beat() and detector.enough()
        again.stop()
    finally:
        detector.stop()
        server.stop(None).wait(60)


def test_the_standard_health_service_stands_beside_the_beat() -> None:
    """grpc.health.v1 says SERVING while the server runs; afterwards beats are lost quietly and the answer is no."""
    detector = FailureDetector(NOMINAL)
    server, address = serve_heartbeats("127.0.0.1:0", detector)
    client = JsonClient(address, SERVICE)
    assert client.healthy(30.0)
    with pytest.raises(ValueError, match="INVALID_ARGUMENT: a beat names its client and its number"):
        client.call(BEAT, {"client": 3}, 30.0)
    raw = grpc.insecure_channel(address, options=(("grpc.enable_http_proxy", 0),))
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
    assert not HeartbeatSender("c", address, Cadence(0.2, 0.6)).beat()
    client.close()


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
