"""One value, one spelling: canonical JSON, so that anyone can hash again what was hashed here."""

from __future__ import annotations

import json
from typing import Any


def canonical_bytes(value: Any) -> bytes:
    """UTF-8 JSON with sorted keys and no spaces; floats as ``repr``, tuples as lists.

    Raises ValueError for NaN and infinities, TypeError for keys that are not strings and for types JSON has not.
    """
    _refuse_strange_keys(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode("utf-8")


def _refuse_strange_keys(value: Any) -> None:
    # json.dumps would turn the key 1 into "1", so that two different values had one spelling.
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise TypeError(f"a canonical object has string keys, not {key!r}")
            _refuse_strange_keys(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            _refuse_strange_keys(inner)
