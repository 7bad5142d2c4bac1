"""The scheduler's API."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from rlhf import links
from rlhf.config import JobConfig
from rlhf.registry import registered
from rlhf.scheduler import Job, Scheduler


@pytest.fixture
def jobs(job_folder: Callable) -> Iterator[str]:
    """A scheduler without Ray; the URL of its jobs."""
    folder = job_folder(JobConfig(train_workers=1, rollout_workers=1))
    process = folder.start("rlhf.scheduler")
    while registered("scheduler") is None:
        assert process.poll() is None, folder.log("scheduler")
        time.sleep(0.02)
    yield "http://{}:{}/api/v1/AsystemJobs".format(*links.listen_address("scheduler", "scheduler"))
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert folder.living() == []


def _show(jobs: str, uid: str) -> dict[str, Any]:
    return requests.get(f"{jobs}/{uid}", timeout=30).json()


def _submit(jobs: str, *components: str) -> str:
    uid = requests.post(jobs, json={"name": "x", "components": components}, timeout=60).json()["uid"]
    while not all(worker["ports"] for worker in _show(jobs, uid)["workers"]):
        time.sleep(0.02)
    return str(uid)


def test_a_job_runs_fails_and_is_cancelled(jobs: str) -> None:
    """A job is RUNNING with the addresses of its workers, FAILED with the exit status of one that died, then CANCELLED."""
    uid = _submit(jobs, "metaserver", "reward")
    shown = _show(jobs, uid)
    assert shown["status"] == "RUNNING"
    ports = {worker["component"]: worker["ports"] for worker in shown["workers"]}
    assert ports["metaserver"] == {"weights": links.listen_address("metaserver", "weights")[1]}
    record = registered("reward")
    assert record is not None
    os.kill(record.pid, signal.SIGKILL)
    while (shown := _show(jobs, uid))["status"] == "RUNNING":
        time.sleep(0.02)
    exits = {worker["component"]: worker["exit_code"] for worker in shown["workers"]}
    assert (shown["status"], exits) == ("FAILED", {"metaserver": None, "reward": -9})
    assert requests.post(f"{jobs}/{uid}/cancel", timeout=30).status_code == 200
    while any(worker["exit_code"] is None for worker in _show(jobs, uid)["workers"]):
        time.sleep(0.02)
    assert _show(jobs, uid)["status"] == "CANCELLED"


def test_nonsense_is_refused_with_one_sentence(jobs: str) -> None:
    """Bodies that are none, unknown or taken components and unknown jobs are 4xx, each saying what is wrong."""
    bad = [b"", b"[]", b"{}", b'{"name": "x", "components": []}', b'{"name": "x", "components": ["train9"]}']
    answers = [requests.post(jobs, data=body, timeout=30) for body in bad]
    assert [answer.status_code for answer in answers] == [400] * len(bad)
    assert "train9" in answers[-1].text
    _submit(jobs, "reward")
    again = requests.post(jobs, json={"name": "y", "components": ["reward"]}, timeout=30)
    assert (again.status_code, again.text) == (409, "already submitted: reward")
    assert requests.get(f"{jobs}/no", timeout=30).status_code == 404
    assert requests.post(f"{jobs}/no/cancel", timeout=30).status_code == 404


def test_colocation_is_held_to(jobs: str) -> None:
    """Workers may be submitted beside those of a job that is there; another strategy or job is refused in a sentence."""
    uid = _submit(jobs, "metaserver")
    for strategy, told in (
        ({"type": "far"}, "no such scheduleStrategy"),
        ({"type": "colocation", "uid": "x"}, "not there: 'x'"),
    ):
        body = {"name": "y", "components": ["reward"], "scheduleStrategy": strategy}
        refused = requests.post(jobs, json=body, timeout=30)
        assert refused.status_code == 400 and told in refused.text
    body["scheduleStrategy"] = {"type": "colocation", "uid": uid}
    assert requests.post(jobs, json=body, timeout=60).status_code == 200


def test_colocation_on_another_host_is_refused() -> None:
    """Components that the name table puts on a host that the job does not use are named."""
    here, there = object(), object()
    scheduler = Scheduler({"train0": here, "rollout0": there, "rollout1": here}, Path("nowhere"))
    scheduler._jobs["u"] = Job("u", "actor", ["train0"])
    strategy = {"type": "colocation", "uid": "u"}
    assert scheduler._misplaced(["rollout0", "rollout1"], strategy) == "not on a host of job u (actor): rollout0"
    assert scheduler._misplaced(["rollout1"], strategy) == ""
