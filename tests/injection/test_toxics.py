"""What may be asked of a toxic, and what is refused."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from injection.toxics import EFFECTS, Bandwidth, ToxicError, make_effect, make_toxic

numbers = st.floats(allow_nan=True, allow_infinity=True) | st.integers() | st.booleans() | st.just("1") | st.none()


@given(kind=st.sampled_from(sorted(EFFECTS)), data=st.data())
def test_no_attribute_slips_through_unchecked(kind: str, data: st.DataObject) -> None:
    """Whatever the attributes, either the effect holds finite non-negative numbers or ToxicError is raised."""
    names = st.sampled_from(
        ["latency", "jitter", "rate", "timeout", "delay", "bytes", "average_size", "size_variation", "else"]
    )
    attributes = data.draw(st.dictionaries(names, numbers, max_size=3))
    try:
        effect = make_effect(kind, attributes)
    except ToxicError:
        return
    assert all(0 <= value < float("inf") for value in vars(effect).values())


@given(rate=st.floats(0.001, 1e6))
def test_a_piece_is_some_bytes_but_not_many(rate: float) -> None:
    """At every rate pieces are at least a byte and, where that is possible, at most 20 ms of the link."""
    piece = Bandwidth(rate).piece_bytes()
    assert piece == 1 or piece / (rate * 1000) <= 0.0201


def test_default_names_and_streams() -> None:
    """An unnamed toxic is called after its type and stream, downstream unless said otherwise."""
    assert make_toxic({"type": "noop"}).name == "noop_downstream"
    assert make_toxic({"type": "noop", "stream": "upstream"}).name == "noop_upstream"
