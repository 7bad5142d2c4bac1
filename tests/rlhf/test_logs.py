"""A process's log holds everything it said."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import logging, sys
from pathlib import Path
from rlhf.logs import open_log
open_log("train0", Path(sys.argv[1]))
logging.getLogger("x").warning("first")
print("second", flush=True)
raise SystemExit("third") if len(sys.argv) > 2 else RuntimeError("third")
"""


def test_logged_printed_and_died_with_are_all_there(tmp_path: Path) -> None:
    """Log records have time, level and component; prints and the final traceback follow in the same file, in order."""
    path = tmp_path / "logs" / "train0.log"
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(path)], capture_output=True, check=False)
    lines = path.read_text().splitlines()
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} WARNING train0: first", lines[0])
    assert lines[1] == "second"
    assert lines[2].startswith("Traceback") and lines[-1] == "RuntimeError: third"
