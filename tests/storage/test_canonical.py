"""Canonical JSON: one value, one spelling."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.canonical import canonical_bytes

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_it_is_json_of_the_same_value(value):
    """Reading it back gives the value, and spelling that again gives the same bytes."""
    data = canonical_bytes(value)
    assert json.loads(data) == value
    assert canonical_bytes(json.loads(data)) == data


@given(st.dictionaries(TEXT, JSON, min_size=2, max_size=5), st.randoms())
def test_the_order_of_keys_does_not_matter(value, random):
    """A dict filled in another order has the same spelling."""
    items = list(value.items())
    random.shuffle(items)
    assert canonical_bytes(dict(items)) == canonical_bytes(value)


def test_the_spelling_is_fixed():
    """Known bytes: sorted keys, no spaces, UTF-8, shortest float, tuple as list."""
    assert canonical_bytes({"ü": (1, 2.0), "a": None, "B": "\n"}) == '{"B":"\\n","a":null,"ü":[1,2.0]}'.encode()


@pytest.mark.parametrize("value", [math.nan, {"a": [math.inf]}, {1: 2}, {"a": {None: 1}}, {"a": object()}, "\ud800"])
def test_what_has_no_single_spelling_is_refused(value):
    """NaN, infinities, keys that are no text, foreign types and broken text raise."""
    with pytest.raises((ValueError, TypeError)):
        canonical_bytes(value)
