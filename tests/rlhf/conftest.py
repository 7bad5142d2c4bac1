"""A job's folder on the loopback, for every test that needs processes or sockets of the job."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from adapters.native import free_ports
from rlhf.config import JobConfig
from rlhf.topology import components, name_table
from tests.rlhf.job_folder import JobFolder


@pytest.fixture
def job_folder(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., JobFolder]]:
    made: list[JobFolder] = []

    def make(config: JobConfig, name: str = "job") -> JobFolder:
        path = scratch / name
        for name in ("logs", "stats", "registry"):
            (path / name).mkdir(parents=True)
        config.save(path / "config.json")
        ports = free_ports(components(config))
        table = name_table(config, lambda _: "127.0.0.1", ports.__getitem__, host_of=lambda _: "localhost")
        (path / "addresses.json").write_text(json.dumps(table))
        monkeypatch.setenv("JOB_DIR", str(path))
        made.append(JobFolder(path, config))
        return made[-1]

    yield make
    for folder in made:
        for process in folder.processes.values():
            process.terminate()
        for process in folder.processes.values():
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
