"""A word that must not come out, and every way in which it might."""

from __future__ import annotations

import base64
from pathlib import Path


def every_byte(case: Path) -> bytes:
    """All paths and all contents of a case, one after the other."""
    files = [path for path in sorted(case.rglob("*")) if path.is_file()]
    return b"\n".join(path.relative_to(case).as_posix().encode() + b"\n" + path.read_bytes() for path in files)


def spellings(word: str) -> dict[str, bytes]:
    """How a word may hide: plain, backwards, hexadecimal, and base64 at each of its three phases."""
    raw = word.encode()
    coded = {f"base64 {n}": base64.b64encode(b"\0" * n + raw)[4 if n else 0 : -4] for n in range(3)}
    return {"plain": raw, "backwards": raw[::-1], "hex": raw.hex().encode(), **coded}
