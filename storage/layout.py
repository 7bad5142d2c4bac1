"""The only place that knows a path.

``FAULTLINE_HOME`` (default ``~/.faultline``) holds everything the lab keeps. A run lives in ``runs/<opaque id>``; the
blind line runs through it: ``truth`` is for the experimenter, ``evidence`` for diagnosers, and neither lies inside the other.
"""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass
from pathlib import Path


def home() -> Path:
    """The lab's home folder, made on first use (mode 0700: it holds truth)."""
    path = Path(os.environ.get("FAULTLINE_HOME") or Path.home() / ".faultline").expanduser().resolve()
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path


def runs_dir() -> Path:
    """The folder of all runs."""
    path = home() / "runs"
    path.mkdir(exist_ok=True)
    return path


def journal_dir() -> Path:
    """Undo records of faults that are, or may be, in force."""
    path = home() / "journal"
    path.mkdir(exist_ok=True)
    return path


def agent_dir() -> Path:
    """What a host agent of this home keeps, its own journal among it; made by the agent."""
    return home() / "agent"


def reports_dir() -> Path:
    """The self-contained pages."""
    path = home() / "reports"
    path.mkdir(exist_ok=True)
    return path


def cache_dir() -> Path:
    """What can be made again from the runs: may be removed at any time."""
    path = home() / "cache"
    path.mkdir(exist_ok=True)
    return path


def prefect_home() -> Path:
    """Prefect's own home, apart from the user's."""
    path = home() / "prefect"
    path.mkdir(exist_ok=True)
    return path


def stack_file() -> Path:
    """What `faultline up` started: pids with start times, port, address."""
    return home() / "stack.json"


def stack_logs() -> Path:
    """Logs of the embedded server and worker."""
    path = home() / "stack"
    path.mkdir(exist_ok=True)
    return path


def new_run_id() -> str:
    """An opaque name that tells nothing about scenario, arm or time."""
    return f"r{uuid.uuid4().hex[:12]}"


@dataclass(frozen=True)
class RunPaths:
    """Every path of one run. Nothing is created by asking; `create` makes the folders."""

    root: Path

    @property
    def run_id(self) -> str:
        """The run's opaque name."""
        return self.root.name

    @property
    def manifest(self) -> Path:
        """Public facts of the run: id, profile, workload, posture, host, times, state. Never the fault."""
        return self.root / "manifest.json"

    @property
    def job(self) -> Path:
        """The job's own working folder: logs, stats, registry, checkpoints. Raw bytes, experimenter's side."""
        return self.root / "job"

    @property
    def job_config(self) -> Path:
        """The job's configuration."""
        return self.job / "config.json"

    @property
    def addresses(self) -> Path:
        """The name table the job dials by."""
        return self.job / "addresses.json"

    @property
    def registry(self) -> Path:
        """One registration file per process of the job."""
        return self.job / "registry"

    @property
    def logs(self) -> Path:
        """One log per process of the job, byte for byte."""
        return self.job / "logs"

    @property
    def recover(self) -> Path:
        """The job's checkpoints; a disk of the job's own is mounted here where a plan has one."""
        return self.job / "recover"

    @property
    def stats(self) -> Path:
        """Application metrics, one JSON-lines file per process of the job."""
        return self.job / "stats"

    @property
    def truth(self) -> Path:
        """Plan, label, salt, history of injection, receipts, the lab's own logs."""
        return self.root / "truth"

    @property
    def plan(self) -> Path:
        """The resolved plan. It names the fault: truth."""
        return self.truth / "plan.json"

    @property
    def carrier(self) -> Path:
        """Which process of this machine carries the run: its pid and start time."""
        return self.truth / "carrier.json"

    @property
    def impact(self) -> Path:
        """What the fault did to the job."""
        return self.truth / "impact.json"

    @property
    def label(self) -> Path:
        """The sealed answer."""
        return self.truth / "label.json"

    @property
    def salt(self) -> Path:
        """The commitment's salt, hexadecimal."""
        return self.truth / "salt"

    @property
    def history(self) -> Path:
        """What the injector saw and did, append-only JSON lines."""
        return self.truth / "history.jsonl"

    @property
    def markers(self) -> Path:
        """When each fault was asked, done, seen and gone, under the experiment plan's own keys."""
        return self.truth / "markers.json"

    @property
    def neutral_names(self) -> Path:
        """Neutral name of each component in this case."""
        return self.truth / "names.json"

    @property
    def lab_logs(self) -> Path:
        """Logs of the lab's own processes."""
        return self.truth / "lab"

    def table(self, name: str) -> Path:
        """Folder of Parquet segments of one table: events, metrics, logs, injections."""
        return self.root / "tables" / name

    @property
    def evidence(self) -> Path:
        """The sealed case: all that a diagnoser may see."""
        return self.root / "evidence"

    @property
    def answers(self) -> Path:
        """What diagnosers answered, one file each."""
        return self.root / "answers"

    @property
    def score(self) -> Path:
        """Scores of the answers."""
        return self.root / "score.json"

    def create(self) -> RunPaths:
        """Make the run's folders; truth is readable by its owner alone. Fails if the run exists: runs are never overwritten."""
        self.root.mkdir(parents=True)
        for folder in (self.job, self.registry, self.logs, self.stats):
            folder.mkdir()
        self.truth.mkdir(mode=0o700)
        self.lab_logs.mkdir()
        return self


def run_paths(run_id: str) -> RunPaths:
    """Paths of a run by its id (which need not exist yet)."""
    if not run_id or "/" in run_id or run_id.startswith("."):
        raise ValueError(f"not a run id: {run_id!r}")
    return RunPaths(runs_dir() / run_id)
