"""A job's folder as the lab hands it to a job, what can be read from it, and a listener that holds the job at a point."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlhf.config import JobConfig


@dataclass
class JobFolder:
    """A folder as the lab hands it to a job."""

    path: Path
    config: JobConfig
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, module: str, *more: str, **env: str) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-m", module, str(self.path), *more]
        process = subprocess.Popen(argv, env={**os.environ, **env})
        self.processes[module] = process
        return process

    def log(self, component: str) -> str:
        path = self.path / "logs" / f"{component}.log"
        return path.read_text() if path.exists() else ""

    def stats(self, component: str, metric: str) -> list[float]:
        lines = map(json.loads, (self.path / "stats" / f"{component}.jsonl").read_text().splitlines())
        return [line["value"] for line in lines if line["metric"] == metric]

    def by_step(self, component: str, metric: str) -> dict[int, float]:
        """A metric's last value of each step."""
        lines = map(json.loads, (self.path / "stats" / f"{component}.jsonl").read_text().splitlines())
        return {line["step"]: line["value"] for line in lines if line["metric"] == metric}

    def registration(self, component: str) -> dict[str, Any]:
        return dict(json.loads((self.path / "registry" / f"{component}.json").read_text()))

    def wait_for_line(self, component: str, text: str, process: subprocess.Popen[bytes]) -> None:
        """Until a log has a text, as long as the process that should write it lives."""
        while text not in self.log(component):
            assert process.poll() is None, f"ended with {process.returncode} before {text!r}:\n{self.log(component)}"
            time.sleep(0.02)

    def living(self) -> list[int]:
        """Processes, other than zombies, that were started for this folder."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                line, state = (entry / "cmdline").read_bytes(), (entry / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if str(self.path).encode() in line and state != "Z" and b"rlhf." in line:
                found.append(int(entry.name))
        return found


class Hold:
    """Listens to a job's announcements; does something while the job is held at entering a stage for the first time."""

    def __init__(self, folder: JobFolder, stage: str, step: int, act: Callable[[], object]):
        self.path = folder.path.with_suffix(".stage")
        self.seen: list[tuple[str, str]] = []
        self._acts = {(stage, step, "enter"): act}
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(self.path))
        self._server.listen()
        threading.Thread(target=self._run, daemon=True).start()

    def also(self, stage: str, step: int, act: Callable[[], object]) -> Hold:
        """Do something at another point, too."""
        self._acts[stage, step, "enter"] = act
        return self

    def _run(self) -> None:
        stream, _ = self._server.accept()
        for line in stream.makefile("rb"):
            event = json.loads(line)
            self.seen.append((event["stage"], event["phase"]))
            if act := self._acts.pop((event["stage"], event["step"], event["phase"]), None):
                act()
            stream.sendall(json.dumps({"seq": event["seq"]}).encode() + b"\n")
