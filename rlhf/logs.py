"""One log file per process: every line it logs, prints or dies with."""

from __future__ import annotations

import logging
import os
import sys
import time
from pathlib import Path


def open_log(component: str, path: Path) -> None:
    """Log to ``path`` from now on, standard output and error included; drops whatever logging was set up before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
    formatter = logging.Formatter(
        f"%(asctime)s.%(msecs)03d %(levelname)s {component}: %(message)s", datefmt="%Y-%m-%d %H:%M:%S"
    )
    formatter.converter = time.gmtime
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    for noisy in ("urllib3", "aiohttp.access", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
