from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from injection.magnitude import evaluate, parse

FACTORS = st.integers(1, 500).map(lambda tenths: tenths / 10)


@given(FACTORS, st.floats(0.25, 7200))
def test_a_multiple_of_a_timeout(factor: float, timeout: float) -> None:
    """`f x timeout(n)` is f times the scaled time-out, in the unit its key ends with."""
    text = f"{factor} x timeout(stop_job)"
    assert evaluate(text, "s", lambda name: {"stop_job": timeout}[name], 0) == pytest.approx(factor * timeout)
    assert evaluate(text, "ms", lambda name: {"stop_job": timeout}[name], 0) == pytest.approx(factor * timeout * 1000)


@given(FACTORS, st.floats(0.25, 7200), st.floats(1, 1e9))
def test_a_shard_over_a_timeout(factor: float, timeout: float, shard: float) -> None:
    """`shard_bytes / (f x timeout(n))` is the rate at which a shard takes f time-outs."""
    rate = evaluate(f"shard_bytes / ({factor} x timeout(update_weights))", "s", lambda _: timeout, shard)
    assert shard / rate == pytest.approx(factor * timeout)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1.5",
        "timeout(a)",
        "x timeout(a)",
        "-1 x timeout(a)",
        "0 x timeout(a)",
        "1 x timeout(a) + 1",
        "__import__('os')",
        "1 * timeout(a)",
        "shard_bytes / 1 x timeout(a)",
        "shard_bytes",
        "1 x timeout(A)",
        "1 x timeout()",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    """The grammar has two sentences; everything else is refused with the forms there are."""
    with pytest.raises(ValueError, match="allowed: a number"):
        parse(text)
