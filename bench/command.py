"""How long `faultline --help` takes (target: under 0.3 s) and how long the stack takes to come up.

Run: python bench/command.py [--stack]
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMAND = Path(sys.executable).parent / "faultline"


def seconds(words: list[str], home: str) -> float:
    """Wall time of one call of the command."""
    began = time.perf_counter()
    subprocess.run([str(COMMAND), *words], check=True, capture_output=True, env=os.environ | {"FAULTLINE_HOME": home})
    return time.perf_counter() - began


def main() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as home:
        times = [seconds(["--help"], home) for _ in range(20)]
        print(f"faultline --help: median {statistics.median(times):.3f} s, worst {max(times):.3f} s of {len(times)}")
        if "--stack" in sys.argv[1:]:
            for state in ("empty home", "second time"):
                up, down = seconds(["up"], home), seconds(["down"], home)
                print(f"stack, {state}: up {up:.1f} s, down {down:.1f} s")


if __name__ == "__main__":
    main()
