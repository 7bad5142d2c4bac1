"""The scheduler's API."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from rlhf import links, ports
from rlhf.config import JobConfig
from rlhf.host import Host
from rlhf.registry import registered
from rlhf.scheduler import LAST_WORDS, Job, Scheduler, _status


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


def _show(jobs: str, uid: str) -> tuple[str, dict[str, dict[str, Any]]]:
    """Status, and by name what is told of each worker, its ip among that."""
    shown = requests.get(f"{jobs}/{uid}", timeout=30).json()
    (group,) = shown["workerGroupStatuses"]
    workers = [{"ip": worker["ip"], **container} for worker in group for container in worker["containerStatuses"]]
    return shown["status"], {worker["name"]: worker for worker in workers}


def _submit(jobs: str, *components: str, **more: Any) -> str:
    uid = requests.post(jobs, json={"name": "x", "components": components, **more}, timeout=60).json()["uid"]
    while _show(jobs, uid)[0] == "STARTING":
        time.sleep(0.02)
    return str(uid)


@pytest.mark.job
def test_a_job_runs_fails_and_is_cancelled(jobs: str) -> None:
    """A job is STARTING, RUNNING with ip and ports of its workers, FAILED with the exit status of one that died, CANCELLED."""
    uid = requests.post(jobs, json={"name": "x", "components": ["metaserver", "reward"]}, timeout=60).json()["uid"]
    seen = [_show(jobs, uid)[0]]
    while seen[-1] != "RUNNING":
        seen.append(_show(jobs, uid)[0])
    assert set(seen) <= {"STARTING", "RUNNING"}
    _, workers = _show(jobs, uid)
    ip, port = links.listen_address("metaserver", "weights")
    assert (workers["metaserver"]["ip"], workers["metaserver"]["ports"]) == (ip, [port])
    os.kill(workers["reward"]["pid"], signal.SIGKILL)
    while (shown := _show(jobs, uid))[0] == "RUNNING":
        time.sleep(0.02)
    exits = {name: worker["exitCode"] for name, worker in shown[1].items()}
    assert (shown[0], exits) == ("FAILED", {"metaserver": None, "reward": -9})
    assert requests.post(f"{jobs}/{uid}/cancel", timeout=30).status_code == 200
    while any(worker["exitCode"] is None for worker in _show(jobs, uid)[1].values()):
        time.sleep(0.02)
    assert _show(jobs, uid)[0] == "CANCELLED"


@pytest.mark.parametrize(
    ("exits", "listening", "status"),
    [
        ([None, None], [True, False], "STARTING"),
        ([None, None], [True, True], "RUNNING"),
        ([0, None], [True, True], "RUNNING"),
        ([0, 0], [True, True], "COMPLETED"),
        ([0, -9], [True, True], "FAILED"),
        ([None, 1], [False, False], "FAILED"),
    ],
)
def test_a_jobs_state_follows_from_its_workers(exits: list[int | None], listening: list[bool], status: str) -> None:
    """A job has started when all its workers listen, has failed when one has, and is complete when all have ended well."""
    assert _status(exits, listening) == status


@pytest.mark.job
def test_who_cannot_start_has_last_words(jobs: str) -> None:
    """A worker whose address is taken ends with the system's code for that, and what it said last is told with it."""
    address = links.listen_address("reward", "reward")
    with socket.create_server(address):
        uid = _submit(jobs, "reward")
        status, workers = _show(jobs, uid)
    assert (status, workers["reward"]["exitCode"]) == ("FAILED", errno.EADDRINUSE)
    assert f"reward cannot listen on {address[0]}:{address[1]}: Address already in use" in workers["reward"]["lastWords"]
    assert len(workers["reward"]["lastWords"]) <= LAST_WORDS


@pytest.mark.job
def test_ports_are_given_out_from_a_range(jobs: str) -> None:
    """With strategy `auto` workers listen at free ports from 38000 on, which the name table has from then on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", next(port for port in range(ports.FIRST, ports.LAST) if ports.is_free("127.0.0.1", port))))
        taken.listen()
        uid = _submit(jobs, "metaserver", "reward", portStrategy={"type": "auto"})
        given = {name: worker["ports"][0] for name, worker in _show(jobs, uid)[1].items()}
        assert taken.getsockname()[1] not in given.values()
    assert len(set(given.values())) == 2 and all(ports.FIRST <= port <= ports.LAST for port in given.values())
    table = links.name_table()
    assert table["dial"]["train0>metaserver:weights"] == f"127.0.0.1:{given['metaserver']}"
    assert requests.get(f"http://127.0.0.1:{given['reward']}/health", timeout=30).ok


@pytest.mark.parametrize(("losses", "status"), [(1, "RUNNING"), (ports.TRIES + 1, "FAILED")])
def test_a_port_that_is_taken_meanwhile_is_replaced(
    losses: int, status: str, job_folder: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between choosing a port and listening somebody may come first: another is tried, three times and no more."""
    folder = job_folder(JobConfig(train_workers=1, rollout_workers=1))
    free = [port for port in range(ports.FIRST, ports.LAST) if ports.is_free("127.0.0.1", port)][: losses + 1]
    monkeypatch.setattr(ports, "is_free", lambda _, port: port in free)
    host = Host(str(folder.path), "none", {})
    scheduler, job = Scheduler({"reward": host}, folder.path), Job("u", "x", ["reward"], auto_ports=True)
    taken = [socket.create_server(("127.0.0.1", port)) for port in free[:losses]]
    try:
        asyncio.run(scheduler._start(job, "reward"))
        assert (registered("reward") is not None) == (status == "RUNNING")
        if status == "RUNNING":
            assert registered("reward").ports == {"reward": free[losses]}
        else:
            assert host.engines()["reward"]["exit_code"] == ports.PORT_TAKEN
    finally:
        host.close()
        for one in taken:
            one.close()


@pytest.mark.job
def test_ports_behind_a_relay_are_not_given_out(jobs: str) -> None:
    """A relay was told where its listener is: a strategy that would move that is refused, as is one that does not exist."""
    table = links.name_table()
    table["dial"]["rollout0>reward:reward"] = "127.0.0.1:1"
    (links.job_dir() / "addresses.json").write_text(json.dumps(table))
    for strategy, told in (
        ({"type": "auto"}, "portStrategy auto: reached through a relay, which knows one port: reward"),
        (
            {"type": "negotiated"},
            "no such portStrategy: {'type': 'negotiated'}; there are {'type': 'fixed'} and {'type': 'auto'}",
        ),
        (38000, "no such portStrategy: 38000; "),
    ):
        refused = requests.post(jobs, json={"name": "x", "components": ["reward"], "portStrategy": strategy}, timeout=30)
        assert refused.status_code == 400 and refused.text.startswith(told)


@pytest.mark.job
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


@pytest.mark.job
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
