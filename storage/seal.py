"""Hashes over evidence, and the salted commitment to the answer: sha256(canonical label || 32-byte salt)."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from pathlib import Path
from typing import Any

from storage.canonical import canonical_bytes
from storage.layout import RunPaths

SALT_BYTES = 32


def sha256_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def new_salt() -> str:
    """32 random bytes, hexadecimal. The label space is tiny: unsalted it would be guessed in milliseconds."""
    return secrets.token_hex(SALT_BYTES)


def commit(label: dict[str, Any], salt: str) -> str:
    """The commitment to ``label`` under the hexadecimal ``salt``. Raises ValueError for a salt that is not 32 bytes."""
    raw = bytes.fromhex(salt)
    if len(raw) != SALT_BYTES:
        raise ValueError(f"a salt has {SALT_BYTES} bytes, not {len(raw)}")
    return hashlib.sha256(canonical_bytes(label) + raw).hexdigest()


def file_hashes(folder: Path, leave_out: tuple[str, ...] = ()) -> dict[str, dict[str, Any]]:
    """``{relative path: {"sha256": hex, "bytes": size}}`` of every regular file below ``folder``, sorted by path.

    Raises ValueError on a link or a special file: evidence is plain bytes.
    """
    hashes: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ValueError(f"{name} is not a plain file")
        if path.is_file() and name not in leave_out:
            hashes[name] = {"sha256": sha256_file(path), "bytes": path.stat().st_size}
    return hashes


def merkle_root(hashes: dict[str, dict[str, Any]]) -> str:
    """One hash over all file hashes: the root of a binary tree whose leaves are (path, size, sha256), sorted by path."""
    level = [hashlib.sha256(b"\x00" + canonical_bytes([name, hashes[name]])).digest() for name in sorted(hashes)]
    while len(level) > 1:
        pairs = [level[i : i + 2] for i in range(0, len(level), 2)]
        level = [hashlib.sha256(b"\x01" + b"".join(pair)).digest() if len(pair) == 2 else pair[0] for pair in pairs]
    return (level[0] if level else hashlib.sha256(b"").digest()).hex()


def verify_seal(paths: RunPaths, label: dict[str, Any] | None = None, salt: str | None = None) -> list[str]:
    """What is wrong with a sealed case, one sentence each; empty when every byte is as sealed.

    Compares the files of ``evidence/`` with ``manifest.json``'s ``files`` and, when the caller (a reader of truth) gives
    label and salt, the commitment with them.
    """
    try:
        manifest = json.loads((paths.evidence / "manifest.json").read_bytes())
        sealed = dict(manifest["files"])
        present = file_hashes(paths.evidence, leave_out=("manifest.json", "commitment.txt"))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return [f"the evidence cannot be read: {type(error).__name__}: {error}"]
    problems = [f"{name}: not in the manifest" for name in sorted(present.keys() - sealed.keys())]
    problems += [f"{name}: missing" for name in sorted(sealed.keys() - present.keys() - {"commitment.txt"})]
    problems += [f"{name}: altered" for name in sorted(present.keys() & sealed.keys()) if present[name] != sealed[name]]
    if label is not None and salt is not None:
        problems += _commitment_problems(paths, label, salt)
    return problems


def _commitment_problems(paths: RunPaths, label: dict[str, Any], salt: str) -> list[str]:
    try:
        told = (paths.evidence / "commitment.txt").read_text().strip()
        kept = commit(label, salt)
    except (OSError, ValueError, TypeError) as error:
        return [f"the commitment cannot be checked: {type(error).__name__}: {error}"]
    return [] if hmac.compare_digest(told.encode(), kept.encode()) else ["the commitment does not fit label and salt"]
