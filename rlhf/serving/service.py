"""The served policy as a child process: started, waited for within a bound, ended."""

from __future__ import annotations

import json
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rlhf.errors import InferenceEngineError
from rlhf.serving.config import ServingConfig

#: From asking it to end to its end: Serve's own and the node's draining.
ENDS_S = 90.0


@contextmanager
def running(serving: ServingConfig, start_s: float, config: Path | None = None) -> Iterator[dict[str, Any]]:
    """`rlhf.serving.up` in a process of its own; yields what it says when it answers (``url`` and times in seconds).

    Raises InferenceEngineError (InitializeError) with its last words when it ends before, or has not answered in `start_s`.
    """
    argv = [sys.executable, "-m", "rlhf.serving.up", "--serving", json.dumps(asdict(serving))]
    argv += [] if config is None else ["--config", str(config)]
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            assert process.stdout is not None
            line = process.stdout.readline() if select.select([process.stdout], [], [], start_s)[0] else None
            if not line:
                raise InferenceEngineError(
                    "InitializeError", _last_words(errors) if line == "" else f"no answer within {start_s:g} s"
                )
            yield json.loads(line)
        finally:
            _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    """Close its standard input, upon which it ends; kill it if it does not (its node then ends by itself)."""
    try:
        process.communicate(timeout=ENDS_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _last_words(errors: Any) -> str:
    errors.seek(0)
    lines = errors.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it ended without a word")
