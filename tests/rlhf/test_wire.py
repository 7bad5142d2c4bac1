"""Messages: what goes in comes out; anything else is refused with a reason."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rlhf.wire import HEADER_LIMIT_BYTES, decode, encode

metas = st.dictionaries(
    st.text(max_size=8), st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=8), st.lists, max_leaves=5)
)
shapes = st.lists(st.integers(0, 4), max_size=3)
dtypes = st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.int32, torch.bool, torch.uint8])


@st.composite
def tensors(draw):
    dtype, shape = draw(dtypes), draw(shapes)
    return torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 99)))).to(dtype)


@given(
    metas, st.dictionaries(st.text(min_size=1, max_size=8).filter(lambda name: name != "__metadata__"), tensors(), max_size=4)
)
@settings(deadline=None)
def test_what_goes_in_comes_out(meta, named):
    """Any JSON object and any tensors, empty ones included, come back equal in value, shape and type."""
    got_meta, got = decode(encode(meta, named))
    assert got_meta == meta
    assert got.keys() == named.keys()
    assert all(torch.equal(got[name], named[name]) and got[name].dtype == named[name].dtype for name in named)


def test_slices_and_transposes_travel_as_what_they_show():
    """Views that share or reorder storage are sent as their own values, and what arrives may be written to."""
    base = torch.arange(12.0).reshape(3, 4)
    _, got = decode(encode({}, {"rows": base[1:], "turned": base.T, "same": base}))
    assert torch.equal(got["rows"], base[1:]) and torch.equal(got["turned"], base.T)
    got["rows"].zero_()
    assert torch.equal(got["same"], base)


@given(st.binary(max_size=200))
@example(b"\x02" + bytes(7) + bytes(8) + b"[]")
@settings(deadline=None)
def test_bytes_that_are_no_message_raise_value_error_and_nothing_else(junk):
    """No junk crashes the reader or passes for a message."""
    with pytest.raises(ValueError):
        decode(junk)


@given(st.data())
@settings(deadline=None)
def test_a_damaged_message_is_refused_or_still_a_message(data):
    """Cutting, lengthening or overwriting a good message gives ValueError, or at worst other values; never another error."""
    good = encode({"call": "train"}, {"a": torch.arange(6.0), "b": torch.zeros(2, 0)})
    at = data.draw(st.integers(0, len(good) - 1))
    with pytest.raises(ValueError):
        decode(good[:at])
    with pytest.raises(ValueError):
        decode(good + data.draw(st.binary(min_size=1, max_size=9)))
    patch = data.draw(st.binary(min_size=1, max_size=9))
    damaged = (good[:at] + patch + good[at + len(patch) :])[: len(good)]
    try:
        meta, _ = decode(damaged)
    except ValueError:
        return
    assert isinstance(meta, dict)


def test_an_oversized_header_is_refused_on_both_sides():
    """Neither side accepts a header beyond the limit, and the reader does so from the size field alone."""
    with pytest.raises(ValueError, match="header of"):
        encode({"text": "x" * HEADER_LIMIT_BYTES}, {})
    with pytest.raises(ValueError, match="header of"):
        decode((HEADER_LIMIT_BYTES + 1).to_bytes(8, "little") + bytes(8))
