"""One Ray node with Serve, in a process of its own: deploys the cases it is told on standard input, one JSON answer each."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

from rlhf.errors import EngineError
from rlhf.serving.up import free_port, node, serve_on


def answer(**values: object) -> None:
    print(json.dumps(values), flush=True)


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="s-", dir="/tmp"))
    try:
        with node(folder, 2) as address, serve_on(address, free_port(), 60) as url:
            from tests.rlhf.serving_cases import CASES

            answer(url=url)
            for line in sys.stdin:
                try:
                    CASES[line.strip()]()
                    answer(error="")
                except EngineError as error:
                    answer(error=str(error))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
