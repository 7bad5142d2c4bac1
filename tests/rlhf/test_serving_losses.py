"""When a process of the service hangs or dies: always an answer within the bound, and then recovery."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
import requests
import torch

from rlhf.config import JobConfig
from rlhf.engines.train import TrainEngine
from rlhf.serving.client import ServedRolloutEngine
from rlhf.serving.config import ServingConfig
from rlhf.serving.service import running

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

SERVING = ServingConfig(ranks=2, collective_s=3.0, rendezvous_s=5.0, request_s=15.0)
ASKED = {"prompts": ["12345"], "step": 1}
RECOVERS_S = 120


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running(SERVING, 300) as told:
        yield told["url"]


def ask(url: str) -> tuple[int, dict[str, Any]]:
    """Status and answer; 0 while there is no connection to be had."""
    try:
        answer = requests.post(f"{url}/generate", json=ASKED, timeout=3 * SERVING.request_s)
        return answer.status_code, answer.json() if answer.headers["content-type"] == "application/json" else {}
    except requests.ConnectionError:
        return 0, {}


def recovered(url: str) -> dict[str, Any]:
    """The first good answer."""
    deadline, said = time.monotonic() + RECOVERS_S, []
    while time.monotonic() < deadline:
        status, answer = ask(url)
        if status == 200:
            return answer
        said.append((status, answer))
    raise AssertionError(said)


def load(url: str, version: int) -> None:
    engine = TrainEngine(JobConfig(seed=version, train_workers=1), 0)
    engine.initialize("", 0)
    ServedRolloutEngine(JobConfig(time_scale=60), url).load_weights(engine.shard(), version)
    assert torch.get_num_threads() == 1


def test_a_rank_that_hangs_fails_requests_within_their_bound(url: str) -> None:
    """A paused rank costs a request the time of one exchange, not for ever; the service recovers with the same weights."""
    load(url, 6)
    expected = recovered(url)
    pid = requests.get(f"{url}/health", timeout=60).json()["members"][1]["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        exchange, rendezvous = ask(url), ask(url)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert exchange[0] == rendezvous[0] == 503
    assert "RolloutError: rank 0 has lost another rank: Timed out waiting 3000ms" in exchange[1]["error"]
    assert rendezvous[1]["error"] == "no answer of rank 1 within 15 s"
    assert recovered(url) == expected
    assert expected["version"] == 6


def test_the_entry_is_replaced_and_finds_the_ranks_again(url: str) -> None:
    """kill -9 of the entry: another one forms the group anew, and the ranks still hold the weights."""
    load(url, 7)
    expected = recovered(url)
    (entry,) = [
        one for one in psutil.Process().children(recursive=True) if one.cmdline()[:1] == ["ray::ServeReplica:policy:Entry"]
    ]
    entry.kill()
    psutil.wait_procs([entry], 30)
    assert recovered(url) == expected
