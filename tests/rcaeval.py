"""RCAEval's own environment, as tests use it: `make test` makes it, and a test that needs it fails without."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from diagnosis.environment import interpreter_of

REPOSITORY = Path(__file__).resolve().parents[1]


def in_its_environment(code: str, told: Any = None) -> Any:
    """What ``code`` prints as JSON there; ``told`` is JSON on its standard input."""
    interpreter = interpreter_of("rcaeval-baro")
    done = subprocess.run(
        [*interpreter.command, "-c", code],
        input=json.dumps(told),
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env=os.environ | interpreter.env | {"MPLCONFIGDIR": ""},
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def oracle(folder: Path) -> list[dict[str, Any]]:
    """What `bench.rcaeval_oracle` tells of the cases in a folder, line by line."""
    interpreter = interpreter_of("rcaeval-baro")
    command = [*interpreter.command, "-m", "bench.rcaeval_oracle", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]
