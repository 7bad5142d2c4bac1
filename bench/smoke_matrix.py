"""What the first command costs: wall time of the smoke matrix, the machine's peak memory, how long clusters take to stand.

    python bench/smoke_matrix.py [--scenario NAME ...]

Runs `faultline matrix --profile smoke` in a home of its own. Peak memory is the largest fall of the machine's available memory
below what it was before; run it on a quiet machine. "Stands" is from the start of a run (before its namespaces exist) to the
moment its Ray cluster answered with every virtual host in it; "first step" is from there to the announcement of step 0.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

FAULTLINE = Path(sys.executable).with_name("faultline")
SAMPLE_S = 0.25


class PeakMemory(threading.Thread):
    """Watches the machine's available memory until told to stop."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.before = self.least = psutil.virtual_memory().available
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(SAMPLE_S):
            self.least = min(self.least, psutil.virtual_memory().available)


def stand_times(home: Path) -> Iterator[tuple[float, float]]:
    """Of every run: seconds until the cluster stood, and from there to step 0."""
    for folder in sorted((home / "runs").iterdir()):
        started = json.loads((folder / "manifest.json").read_text())["started_s"]
        stood = (folder / "job" / "ray.json").stat().st_mtime
        events = (json.loads(line) for line in (folder / "truth" / "history.jsonl").read_text().splitlines())
        first = next(event["wall_s"] for event in events if event["what"] == "event" and event["step"] == 0)
        yield stood - started, first - stood


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenario", action="append", default=[])
    chosen = [word for name in parser.parse_args().scenario for word in ("--scenario", name)]
    home = Path(tempfile.mkdtemp(prefix="bench-"))
    peak = PeakMemory()
    peak.start()
    began = time.monotonic()
    try:
        argv = [str(FAULTLINE), "matrix", "--profile", "smoke", *chosen]
        code = subprocess.run(argv, env={**os.environ, "FAULTLINE_HOME": str(home)}, check=False).returncode
        seconds = time.monotonic() - began
        peak.over.set()
        stands, steps = zip(*stand_times(home), strict=True)
        print(f"exit code            {code}")
        print(f"wall time            {seconds:.0f} s")
        print(f"peak memory          {(peak.before - peak.least) / 2**30:.2f} GiB above the start")
        print(f"cluster stands       median {statistics.median(stands):.1f} s, longest {max(stands):.1f} s (n={len(stands)})")
        print(f"then to first step   median {statistics.median(steps):.1f} s, longest {max(steps):.1f} s")
    finally:
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
