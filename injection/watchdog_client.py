"""Starting a watchdog that stands outside every place, so that it outlives whoever started it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from injection.procfs import identity


def outliving(journal: Path, run_id: str, lease_s: float, watched: Sequence[int], log: Path) -> subprocess.Popen[bytes]:
    """It watches those pids. By its name a later start finds it and waits. Raises ProcessLookupError where one is gone."""
    argv = [sys.executable, "-m", "injection.watchdog", "--journal", str(journal), "--run", run_id, "--lease", str(lease_s)]
    for pid in watched:
        argv += ["--watch", f"{pid}:{identity(pid).start_ticks}"]
    with log.open("ab") as output:
        return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True)
