"""A real job on a cluster of its own, run a few steps at a time: it is held where it announces that a step begins."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from adapters.native import NativeJob, component_hosts
from bench.turns import Turn, cpu_seconds
from injection.listener import Listener
from injection.place import Process, open_place
from rlhf.config import JobConfig
from storage.layout import new_run_id, run_paths
from storage.records import StageEvent

#: How long a turn, or the start of a job, may take before the bench gives up, s.
PATIENCE_S = 230.0
FIRST_STAGE = "weights_update"


class _PatientJob(NativeJob):
    """Lets itself be held for as long as the others take their turns."""

    def _job_environment(self, stage_socket: Path) -> dict[str, str]:
        return super()._job_environment(stage_socket) | {"STAGE_DEADLINE_S": "3600"}


class StandingJob:
    """The job's cluster and processes. `first_step` first, then `turn` after `turn`."""

    def __init__(self, config: JobConfig, kind: str = "virtual-cluster"):
        self.config, self.paths = config, run_paths(new_run_id()).create()
        config.save(self.paths.job_config)
        before = {child.pid for child in psutil.Process().children()}
        self._place = open_place(kind, component_hosts(config, kind))
        [self.pid] = {child.pid for child in psutil.Process().children()} - before
        self._moved, self._allowed, self._held = threading.Condition(), 0, -1
        self._listener = Listener(self._place.scratch / "stage", self._heard)
        self._listener.start()
        self._job = _PatientJob(self._place, self.paths, config)
        self._job.prepare(None)
        self._job.start(self._place.scratch / "stage")

    def first_step(self) -> float:
        """Wait until the first step begins; the wall clock then, s."""
        self._await(0)
        return time.time()

    def turn(self, steps: int) -> Turn:
        """Run `steps` steps, all stages of them."""
        cpu_s, start, until = cpu_seconds(self.pid), time.monotonic(), self._allowed + steps
        with self._moved:
            self._allowed = until
            self._moved.notify_all()
        self._await(until)
        return Turn(time.monotonic() - start, cpu_seconds(self.pid) - cpu_s)

    def beside(self, argv: list[str], log: Path) -> Process:
        """Start a program of the lab's own where those of a run stand."""
        own = "" if self._place.kind == "virtual-cluster" else "localhost"
        return self._place.spawn(argv, host=own, log=log)

    def stats(self, component: str) -> Iterator[dict[str, Any]]:
        """The figures a component has written."""
        return map(json.loads, (self.paths.stats / f"{component}.jsonl").read_text().splitlines())

    def registration(self, component: str) -> dict[str, Any]:
        """Who a component is, once it listens."""
        return dict(json.loads((self.paths.registry / f"{component}.json").read_text()))

    def close(self) -> None:
        """End the cluster, whatever it is doing."""
        self._listener.close()
        self._place.close()

    def _heard(self, event: StageEvent, _: float) -> float:
        """Keep the controller waiting at the beginning of a step that was not asked for yet."""
        if (event.component, event.stage, event.phase) == ("controller", FIRST_STAGE, "enter"):
            with self._moved:
                self._held = event.step
                self._moved.notify_all()
                self._moved.wait_for(lambda: event.step < self._allowed)
        return 0.0

    def _await(self, step: int) -> None:
        """Until the job is held at the beginning of `step`. Raises RuntimeError with the job's own last words."""
        deadline = time.monotonic() + PATIENCE_S
        with self._moved:
            while self._held < step:
                ended = next((name for name, process, _ in self._job.processes() if process.poll() is not None), "")
                if ended or time.monotonic() > deadline:
                    log = self.paths.logs / "controller.log"
                    said = log.read_text()[-2000:] if log.exists() else "nothing"
                    raise RuntimeError(f"{ended or 'time'} ended before step {step}; the controller said: {said}")
                self._moved.wait(0.5)
