"""The engines of one host: a template process that forks them, and a record of how each ended. No Ray, no torch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

#: Between asking an engine to end and killing it. Engines keep nothing that ending must save.
GRACE_S = 1.0
#: The service has its ranks ended first.
GRACES_S = {"serving": 20.0}
THREADS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
#: Keep what a step has freed for the next one: giving it back and taking it again is thousands of page faults a step. What is
#: larger than the threshold, such as a reserved key/value cache, is still mapped and unmapped each time.
MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(16 << 20), "MALLOC_TRIM_THRESHOLD_": str(64 << 20)}


@dataclass
class Engine:
    """A started engine. ``exit_code`` is None while it runs, negative for a signal."""

    component: str
    pid: int = 0
    exit_code: int | None = None


class Host:
    """Starts and stops engines through a template of its own. All of them end with this process.

    ``preload`` is what the template imports: ``train``, ``torch`` or ``none``.
    """

    def __init__(self, job_dir: str, preload: str, environment: dict[str, str]):
        log = Path(job_dir) / "template.log"
        argv = [sys.executable, "-m", "rlhf.template", job_dir, preload]
        with log.open("ab") as errors:
            pipe = subprocess.PIPE
            env = {**os.environ, **environment, **THREADS, **MEMORY}
            self._template = subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=errors, env=env)
        self._engines: dict[str, Engine] = {}
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, name="template", daemon=True)
        self._reader.start()

    def start(self, component: str) -> None:
        """Have an engine forked; it registers itself when it listens."""
        with self._changed:
            self._engines[component] = Engine(component)
        self._ask({"start": component})

    def engines(self) -> dict[str, dict[str, Any]]:
        """Every engine ever started here: component, pid, exit_code."""
        with self._changed:
            return {name: asdict(engine) for name, engine in self._engines.items()}

    def stop(self, components: list[str]) -> dict[str, int | None]:
        """End engines: asked to first, killed after a grace. Returns exit codes; None for one that cannot be ended."""
        mine = [self._engines[name] for name in components if name in self._engines]
        grace_s = max((GRACES_S.get(name, GRACE_S) for name in components), default=GRACE_S)
        for number in (signal.SIGTERM, signal.SIGKILL):
            for engine in mine:
                self._ask({"stop": engine.component, "signal": int(number)})
            with self._changed:
                if self._changed.wait_for(lambda: all(engine.exit_code is not None for engine in mine), grace_s):
                    break
        return {engine.component: engine.exit_code for engine in mine}

    def close(self) -> None:
        """End the template, and with it every engine."""
        if self._template.stdin:
            self._template.stdin.close()
        self._template.wait()
        self._reader.join()

    def _ask(self, request: dict[str, Any]) -> None:
        if self._template.stdin is None or self._template.poll() is not None:
            return  # nothing runs any more; the exit codes say so
        try:
            self._template.stdin.write(json.dumps(request).encode() + b"\n")
            self._template.stdin.flush()
        except BrokenPipeError:
            return

    def _read(self) -> None:
        """Keep the record; if the template dies, the kernel has killed what it forked."""
        assert self._template.stdout is not None
        for line in self._template.stdout:
            message = json.loads(line)
            if "component" in message:
                self._note(message["component"], message.get("pid"), message.get("exit_code"))
        for component, engine in self._engines.items():
            if engine.exit_code is None:
                self._note(component, None, -int(signal.SIGKILL))

    def _note(self, component: str, pid: int | None, exit_code: int | None) -> None:
        with self._changed:
            engine = self._engines[component]
            engine.pid = engine.pid if pid is None else pid
            engine.exit_code = exit_code
            self._changed.notify_all()
