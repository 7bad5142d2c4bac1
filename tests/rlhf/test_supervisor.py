"""A supervisor and its circuit breaker: what is started again, when, and when no more."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.resilience.breaker import CircuitBreaker
from rlhf.resilience.supervisor import Supervisor

EXIT = "import sys; sys.exit({})"


class Clock:
    """Time that passes only when somebody waits; stops the supervisor when it has waited often enough."""

    def __init__(self, waits: int = 1000):
        self.now, self.waits, self.left = 0.0, [], waits

    def __call__(self) -> float:
        return self.now

    def wait(self, ending: threading.Event, seconds: float) -> bool:
        self.waits.append(seconds)
        self.now += seconds
        if len(self.waits) >= self.left:
            ending.set()
        return ending.is_set()


@pytest.mark.parametrize("code", [0, 3])
def test_any_exit_code_is_started_again_and_a_loop_is_broken(code: int, caplog: pytest.LogCaptureFixture) -> None:
    """Exit codes 0 and 3 alike: 5, 10, 20 s between starts; after the fourth end ten minutes before each trial."""
    clock = Clock(waits=5)
    breaker = CircuitBreaker(limit=4, window_s=600.0, cool_s=600.0, clock=clock)
    supervisor = Supervisor([sys.executable, "-c", EXIT.format(code)], breaker, wait=clock.wait, clock=clock)
    supervisor.run()
    assert clock.waits == [5.0, 10.0, 20.0, 600.0, 600.0]
    assert supervisor.exit_codes == [code] * 5
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert errors == [f"restart loop: ended with code {code} again; not started for 600 s"] * 2


def test_a_long_life_forgives() -> None:
    """A process that lived longer than `stable_s` is started again after the first wait, however often it ends."""
    clock = Clock(waits=8)
    breaker = CircuitBreaker(limit=3, clock=clock)
    supervisor = Supervisor([sys.executable, "-c", EXIT.format(0)], breaker, stable_s=0.0, wait=clock.wait, clock=clock)
    supervisor.run()
    assert clock.waits == [5.0] * 8


def test_what_cannot_be_started_is_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    """A program that is not there is told, and breaks the circuit like one that ends at once."""
    clock = Clock(waits=4)
    supervisor = Supervisor(["/nowhere/server"], CircuitBreaker(limit=4, clock=clock), wait=clock.wait, clock=clock)
    supervisor.run()
    assert clock.waits == [5.0, 10.0, 20.0, 600.0] and supervisor.exit_codes == []
    assert "/nowhere/server cannot be started" in caplog.text


def test_stop_ends_it_for_good(tmp_path: Path) -> None:
    """Stopped, the process is gone, by SIGKILL if it does not listen, and not started again."""
    deaf = "import signal, sys, time; signal.signal(15, signal.SIG_IGN); open(sys.argv[1], 'w').close(); time.sleep(600)"
    supervisor = Supervisor([sys.executable, "-c", deaf, str(tmp_path / "deaf")], CircuitBreaker())
    supervisor.start()
    while not (tmp_path / "deaf").exists():
        assert supervisor._thread.is_alive() and not supervisor.exit_codes
    supervisor.stop(grace_s=0.2)
    assert supervisor.exit_codes == [-9]
    assert not supervisor._thread.is_alive()


@given(
    st.integers(1, 6),
    st.floats(1.0, 100.0),
    st.floats(1.0, 100.0),
    st.lists(st.tuples(st.floats(0.0, 60.0), st.booleans()), max_size=60),
)
def test_laws_of_the_breaker(limit: int, window_s: float, cool_s: float, history: list[tuple[float, bool]]) -> None:
    """In any history: it opens at the `limit`-th failure in a window or a failed trial, and a success closes it."""
    clock = Clock()
    breaker = CircuitBreaker(limit, window_s, cool_s, clock)
    failed: list[float] = []
    for wait, good in history:
        clock.now += wait
        before = breaker.state
        if not breaker.allow():
            assert before == "open" and breaker.wait_s() > 0
            continue
        assert before in ("closed", "half-open")
        if good:
            breaker.succeeded()
            failed.clear()
            assert breaker.state == "closed"
            continue
        breaker.failed()
        failed.append(clock.now)
        full = len(failed) >= limit and failed[-1] - failed[-limit] <= window_s
        assert breaker.state == ("open" if full or before == "half-open" else "closed")


def test_half_open_lets_one_through() -> None:
    """After the cool time the first who asks may try, and nobody else until that is decided."""
    clock = Clock()
    breaker = CircuitBreaker(limit=1, cool_s=10.0, clock=clock)
    breaker.failed()
    assert not breaker.allow() and breaker.wait_s() == 10.0
    clock.now = 10.0
    assert breaker.state == "half-open" and breaker.allow() and not breaker.allow()
    breaker.failed()
    assert breaker.state == "open"
    clock.now = 20.0
    assert breaker.allow()
    breaker.succeeded()
    assert breaker.allow() and breaker.allow()
