"""What a probe's figures prove of a fault on a link, and what not."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from injection import echo
from injection.fault import Context, RefusedError
from injection.link_proof import passes
from injection.registry import make_fault
from injection.target import LiveLink

LINK = LiveLink("a>b:rpc", "near", "10.0.0.1", "far", "10.0.0.2", 7001)


def verdict(kind: str, params: dict[str, Any], **figures: Any) -> bool:
    """Whether these figures of each direction prove the fault."""
    ctx = Context(LINK, "nfqueue", lambda _, asked: {"sent_count": asked["count"], **figures})
    return bool(make_fault(kind, params, ctx).verify().ok)


def test_a_delay_is_proved_by_what_comes_late_and_a_long_one_by_what_does_not_come() -> None:
    """Late arrivals prove a delay; silence proves one that is longer than the probe waits, and no shorter one."""
    assert verdict("network-delay", {"delay_ms": 50}, received_count=10, least_ms=45.0)
    assert not verdict("network-delay", {"delay_ms": 50}, received_count=10, least_ms=35.0)
    assert not verdict("network-delay", {"delay_ms": 50}, received_count=0)
    assert verdict("network-delay", {"delay_ms": 13_000}, received_count=0)
    assert not verdict("network-delay", {"delay_ms": 13_000}, received_count=3, least_ms=900.0)


def test_a_loss_is_proved_by_about_as_many_as_asked() -> None:
    """None lost, all lost and a share far off are no proof of a loss of a fifth."""
    for received, proved in ((80, True), (100, False), (0, False), (30, False)):
        assert verdict("network-loss", {"loss_ratio": 0.2}, received_count=received) == proved


def test_a_partition_is_proved_by_silence_alone() -> None:
    """One datagram that comes through disproves it."""
    assert verdict("network-partition", {}, received_count=0)
    assert not verdict("network-partition", {}, received_count=1)


def test_a_link_that_lets_nothing_pass_proves_nothing() -> None:
    """Silence before the fault is a refusal: what is missing later would not be the fault's doing."""
    silent = Context(LINK, "nfqueue", lambda _, asked: {"sent_count": asked["count"], "received_count": 0})
    with pytest.raises(RefusedError, match="lets nothing pass forward even before"):
        passes(silent, "forward")


def test_two_measurements_of_one_link_take_turns() -> None:
    """Both find all that they sent; neither finds the port taken, nor the other's datagrams."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as chosen:
        chosen.bind(("127.0.0.1", 0))
        port = chosen.getsockname()[1]
    here = echo.Path("", "127.0.0.1", "", "127.0.0.1", port)
    with ThreadPoolExecutor(2) as both:
        found = [both.submit(echo.one_way, here, backward, 20, 0.01, 5.0) for backward in (False, True)]
        assert [one.result().count(None) for one in found] == [0, 0]
