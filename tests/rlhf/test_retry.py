"""Retry policies: the waits they say, the waits they make, and what the job does by them."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf import links
from rlhf.config import HARDENED, POSTURE_WORDS, JobConfig, Posture
from rlhf.resilience.retry import GRPC_SEND, HASTY, PATIENT, PRESETS, TRAINER, RetryPolicy
from rlhf.rpc import RpcClient, RpcError
from rlhf.rpc_server import RpcServer
from rlhf.stats import StatsTracker


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.now, self.slept = 100.0, []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def _fail(policy: RetryPolicy, dice: int = 0) -> tuple[list[float], int]:
    """The waits made and the tries used when nothing ever succeeds."""
    clock, tries = Clock(), []

    def refuse() -> None:
        tries.append(clock.now)
        raise ConnectionError("refused")

    with pytest.raises(ConnectionError, match="refused"):
        policy.call(refuse, (ConnectionError,), sleep=clock.sleep, clock=clock, dice=random.Random(dice))
    return clock.slept, len(tries)


def test_presets_wait_as_their_sources_say() -> None:
    """Before: 2 + 4 + 8 s. After: min(5 * 2**i, 60) s between ten tries, 375 s (its table ends at 320 s). gRPC: 1, 2 s."""
    assert HASTY.waits_s() == [2.0, 4.0, 8.0]
    assert PATIENT.waits_s() == [min(5.0 * 2**i, 60.0) for i in range(9)]
    assert sum(PATIENT.waits_s()) == 375.0
    assert GRPC_SEND.attempts == 3 and GRPC_SEND.waits_s() == [1.0, 2.0] and GRPC_SEND.wait_s(20) == 30.0
    assert TRAINER.waits_s() == [1.0, 1.0, 1.0]
    assert set(POSTURE_WORDS["retry"]) <= set(PRESETS)


def test_what_is_waited_is_what_the_policy_says() -> None:
    """Without jitter and deadline the sleeps made are the waits told, and the tries are counted."""
    for policy in (HASTY, PATIENT, TRAINER):
        assert _fail(policy) == (policy.waits_s(), policy.attempts)
        assert _fail(policy.scaled(10.0))[0] == pytest.approx([wait / 10.0 for wait in policy.waits_s()])


POLICIES = st.builds(
    RetryPolicy,
    attempts=st.integers(1, 12),
    base_s=st.floats(0.0, 50.0),
    cap_s=st.floats(0.0, 100.0),
    factor=st.floats(1.0, 4.0),
    jitter_s=st.floats(0.0, 5.0),
    deadline_s=st.floats(0.0, 500.0),
)


@given(POLICIES, st.integers(0, 99))
def test_waits_are_bounded(policy: RetryPolicy, dice: int) -> None:
    """For any policy: tries and total time are bounded, each wait lies between its formula and its formula plus jitter."""
    slept, tries = _fail(policy, dice)
    assert tries == len(slept) + 1 <= policy.attempts
    assert sum(slept) <= policy.deadline_s + 1e-6
    for failures, wait in enumerate(slept):
        assert policy.wait_s(failures) <= wait <= policy.wait_s(failures) + policy.jitter_s + 1e-9
    assert slept == _fail(policy, dice)[0], "the same dice give the same waits"


def test_success_and_other_errors_end_it() -> None:
    """It stops at the first success; an error that is not to be retried passes at once; each wait is told beforehand."""
    clock, told, answers = Clock(), [], iter([ConnectionError("a"), ConnectionError("b"), None])

    def sometimes() -> str:
        if (error := next(answers)) is not None:
            raise error
        return "there"

    heard = HASTY.call(
        sometimes,
        (ConnectionError,),
        sleep=clock.sleep,
        clock=clock,
        before_wait=lambda failures, error, wait: told.append((failures, str(error), wait)),
    )
    assert heard == "there" and told == [(1, "a", 2.0), (2, "b", 4.0)]

    def wrong() -> None:
        raise ValueError("never again")

    with pytest.raises(ValueError, match="never again"):
        HASTY.call(wrong, (ConnectionError,), sleep=clock.sleep, clock=clock)
    assert clock.slept == [2.0, 4.0]


def test_nonsense_is_no_policy() -> None:
    """No tries, negative waits and unknown presets are refused."""
    for bad in ({"attempts": 0}, {"base_s": -1.0}, {"factor": 0.5}, {"deadline_s": -1.0}):
        with pytest.raises(ValueError, match="not a retry policy"):
            RetryPolicy(**{"attempts": 3, "base_s": 1.0, **bad})
    with pytest.raises(ValueError, match="posture retry is 'often'; allowed: trainer, hasty, patient, grpc_send, backoff"):
        Posture(retry="often")


@pytest.mark.parametrize(("posture", "reached"), [(Posture(), False), (HARDENED, True)], ids=["legacy", "hardened"])
def test_a_late_listener_is_reached_with_backoff_only(
    posture: Posture, reached: bool, job_folder: Callable[[JobConfig], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A callee that listens only after six refusals is reached by `backoff`, and given up by the trainer's three retries."""
    config = JobConfig(time_scale=1000.0, posture=posture)
    job_folder(config)
    refusals, server = [], None
    dial = links.dial

    def counting(*asked: object) -> socket.socket:
        nonlocal server
        try:
            return dial(*asked)
        except OSError:
            refusals.append(time.monotonic())
            if len(refusals) == 6:
                server = RpcServer(links.listen("train0", "rpc"), 5.0, lambda *_: ({"said": "yes"}, {}))
                threading.Thread(target=server.serve_forever, daemon=True).start()
            raise

    monkeypatch.setattr(links, "dial", counting)
    with StatsTracker(tmp_path / "c.jsonl", "controller") as stats:
        client = RpcClient("train0", config, stats)
        if reached:
            assert client.call("hello", 30.0)[0] == {"said": "yes"}
        else:
            with pytest.raises(RpcError, match="Max retries exceeded"):
                client.call("hello", 30.0)
        client.close()
    assert len(refusals) == (6 if reached else 4)
    assert f'rpc/hello/retries", "unit": "count", "value": {6.0 if reached else 3.0}' in (tmp_path / "c.jsonl").read_text()
    if server:
        server.stop()
