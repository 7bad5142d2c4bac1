"""A call's arguments as bytes: a JSON header and tensors in safetensors form. Never pickle: what is read cannot run.

Layout: 8 bytes little-endian header length, 8 bytes tensor length, the header (a JSON object in UTF-8), the tensors.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

_SIZES = struct.Struct("<QQ")
#: A header is a handful of scalars and names; a larger one is not ours.
HEADER_LIMIT_BYTES = 1 << 20


def encode(meta: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bytes:
    """One message. Raises TypeError when `meta` is not JSON, ValueError when its text is over the limit."""
    header = json.dumps(dict(meta)).encode()
    if len(header) > HEADER_LIMIT_BYTES:
        raise ValueError(f"header of {len(header)} bytes; at most {HEADER_LIMIT_BYTES}")
    # A slice shares its storage with its neighbours; safetensors wants each tensor on its own.
    body = save({name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()})
    return b"".join((_SIZES.pack(len(header), len(body)), header, body))


def decode(message: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What `encode` was given. Raises ValueError with the reason for anything that is not exactly one message."""
    if len(message) < _SIZES.size:
        raise ValueError(f"message of {len(message)} bytes is shorter than its size fields ({_SIZES.size} bytes)")
    header_size, body_size = _SIZES.unpack_from(message)
    if header_size > HEADER_LIMIT_BYTES:
        raise ValueError(f"header of {header_size} bytes announced; at most {HEADER_LIMIT_BYTES}")
    expected = _SIZES.size + header_size + body_size
    if len(message) != expected:
        raise ValueError(f"message of {len(message)} bytes where its size fields say {expected}")
    body_start = _SIZES.size + header_size
    return _header(message[_SIZES.size : body_start]), _tensors(message[body_start:])


def _header(text: bytes) -> dict[str, Any]:
    try:
        meta = json.loads(text.decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"header is not JSON: {error}") from error
    if not isinstance(meta, dict):
        raise ValueError(f"header is not a JSON object: {type(meta).__name__}")  # noqa: TRY004 - bad input, not a caller's type
    return meta


def _tensors(body: bytes) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load(body)
    except (SafetensorError, KeyError, TypeError, RuntimeError, OverflowError) as error:
        raise ValueError(f"tensors are not in safetensors form: {error}") from error
    return tensors
