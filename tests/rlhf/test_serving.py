"""The policy on Ray Serve, for real: one node and one Serve for all tests here, over HTTP; and each way it is got wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

import psutil
import pytest
import requests
import torch

from rlhf import wire
from rlhf.batch import DistributedBatchMemory
from rlhf.config import JobConfig
from rlhf.engines.rollout import RolloutEngine
from rlhf.engines.train import TrainEngine
from rlhf.errors import InferenceEngineError
from rlhf.prompts import sample_prompts
from rlhf.serving import protocol
from rlhf.serving.client import ServedRolloutEngine
from rlhf.task import score
from tests.conftest import REPOSITORY

pytestmark = [pytest.mark.job, pytest.mark.timeout(600)]

#: As in `serving_cases`, which imports Ray; time-outs of the client are those of a job at scale 1.
CONFIG = JobConfig(seed=4, train_workers=1, prompts_per_step=5, samples_per_prompt=3, time_scale=60)
ENDS_S = 90


class Driver:
    """The process that holds node and Serve."""

    def __init__(self) -> None:
        pipe = subprocess.PIPE
        argv = [sys.executable, "-m", "tests.rlhf.serving_driver"]
        self.process = subprocess.Popen(argv, cwd=REPOSITORY, stdin=pipe, stdout=pipe, text=True)
        self.url = self._answer()["url"]

    def deploy(self, case: str) -> str:
        """What the case's deployment raises, or nothing."""
        print(case, file=self.process.stdin, flush=True)
        return self._answer()["error"]

    def _answer(self) -> dict[str, str]:
        for line in self.process.stdout:
            if line.startswith("{"):
                return dict(json.loads(line))
        raise AssertionError(f"ended with {self.process.wait()}")


@pytest.fixture(scope="module")
def driver() -> Iterator[Driver]:
    made = Driver()
    tree = psutil.Process(made.process.pid).children(recursive=True)
    yield made
    made.process.stdin.close()
    made.process.wait(ENDS_S)
    assert [one for one in tree if one.is_running() and one.status() != psutil.STATUS_ZOMBIE] == []


@pytest.fixture(scope="module")
def policy(driver: Driver) -> Iterator[ServedRolloutEngine]:
    assert driver.deploy("policy") == ""
    return ServedRolloutEngine(CONFIG, driver.url)


def weights(seed: int) -> dict[str, torch.Tensor]:
    engine = TrainEngine(replace(CONFIG, seed=seed), 0)
    engine.initialize("", 0)
    return engine.shard()


def test_ranks_are_given_out_once_each(policy: ServedRolloutEngine) -> None:
    """The two replicas are ranks 0 and 1 of 2, in processes of their own, and have met."""
    members = policy.members(60)
    assert [(one["rank"], one["world"], one["local_rank"], one["device"]) for one in members] == [
        (0, 2, 0, "cpu"),
        (1, 2, 1, "cpu"),
    ]
    assert len({one["pid"] for one in members}) == 2


def test_nothing_listens_beyond_the_loopback(driver: Driver, policy: ServedRolloutEngine) -> None:
    """No port of node, Serve, proxy, replicas and their meeting point is open to the outside."""
    policy.members(60)
    found = set()
    for process in psutil.Process(driver.process.pid).children(recursive=True):
        found |= {one.laddr.ip for one in process.net_connections("inet") if one.status == psutil.CONN_LISTEN}
    assert found and found <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def test_served_samples_are_those_of_the_engines_behind_it(policy: ServedRolloutEngine) -> None:
    """With weights of a version loaded, the samples are exactly those of one rollout engine a rank, each on its share."""
    policy.load_weights(weights(9), 3)
    prompts = sample_prompts(CONFIG, 7)
    served = policy.generate(prompts, 7, score)
    parts = []
    for rank, share in enumerate(prompts.split(2)):
        engine = RolloutEngine(CONFIG, rank)
        engine.load_weights(weights(9), 3)
        parts.append(engine.generate(share, 7, score))
    here = DistributedBatchMemory.concat(parts)
    assert policy.version == 3
    assert sorted(served.keys()) == sorted(here.keys())
    assert all(torch.equal(served[key], here[key]) for key in here)


def test_weights_are_taken_by_all_ranks_or_by_none(policy: ServedRolloutEngine) -> None:
    """Incomplete weights are refused by name and every rank keeps what it has."""
    policy.load_weights(weights(9), 4)
    short = {name: tensor for name, tensor in weights(5).items() if name != "head.weight"}
    with pytest.raises(InferenceEngineError, match=r"UpdateWeightError: .* HTTP 400: .*missing weights head.weight"):
        policy.load_weights(short, 5)
    assert [one["version"] for one in policy.members(60)] == [4, 4]
    policy.generate(sample_prompts(CONFIG, 1), 1, score)
    assert policy.version == 4


def test_people_ask_in_json(driver: Driver, policy: ServedRolloutEngine) -> None:
    """POST /generate with prompts as text answers completions with the log-probability of each token."""
    answer = requests.post(f"{driver.url}/generate", json={"prompts": ["123", "98765"], "step": 2}, timeout=60).json()
    assert [one["prompt"] for one in answer["results"]] == ["123", "98765"]
    for result in answer["results"]:
        assert len(result["samples"]) == CONFIG.samples_per_prompt
        for sample in result["samples"]:
            assert len(sample["completion"]) <= len(sample["logprobs"]) <= CONFIG.max_digits + 1
            assert all(logprob < 0 for logprob in sample["logprobs"])


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "reason"),
    [
        ("POST", "/generate", b"{", 400, "Expecting property name"),
        ("POST", "/generate", b"[]", 400, "a request is an object"),
        ("POST", "/generate", b'{"prompts": []}', 400, "at least one"),
        ("POST", "/generate", b'{"prompts": ["12a"]}', 400, "1 to 6 digits, not '12a'"),
        ("POST", "/generate", b'{"prompts": ["1"], "step": -1}', 400, "step must be"),
        ("PUT", "/weights", b"short", 400, "shorter than its size fields"),
        ("PUT", "/weights", wire.encode({}, {}), 400, "version must be a whole number from 0, not None"),
        ("GET", "/generate", b"", 404, "no GET /generate; there is POST /generate"),
        ("GET", "/nowhere", b"", 404, "no GET /nowhere"),
    ],
)
def test_bad_requests_are_told_why(driver, policy, method: str, path: str, body: bytes, status: int, reason: str) -> None:
    """A request that makes no sense gets one sentence and the service goes on."""
    answer = requests.request(method, f"{driver.url}{path}", data=body, timeout=60)
    assert (answer.status_code, reason in answer.json()["error"]) == (status, True), answer.text


def test_a_body_over_the_limit_is_refused(driver: Driver, policy: ServedRolloutEngine) -> None:
    """More than the limit is told the limit; nothing of it is read as a request."""
    answer = requests.put(f"{driver.url}/weights", data=bytes(protocol.BODY_LIMIT_BYTES + 1), timeout=60)
    assert (answer.status_code, answer.json()["error"]) == (400, "a request has at most 67108864 bytes")
    assert len(policy.members(60)) == 2


def test_a_killed_rank_is_replaced_and_catches_up(policy: ServedRolloutEngine) -> None:
    """kill -9 of a rank fails requests, with a reason, until Serve has replaced it; then rank and weights are as before."""
    policy.load_weights(weights(9), 8)
    before = policy.members(60)
    expected = policy.generate(sample_prompts(CONFIG, 3), 3, score)
    os.kill(before[1]["pid"], signal.SIGKILL)
    deadline, again, reasons = time.monotonic() + 120, None, []
    while again is None and time.monotonic() < deadline:
        try:
            again = policy.generate(sample_prompts(CONFIG, 3), 3, score)
        except InferenceEngineError as error:
            reasons.append(str(error))
    assert again is not None, reasons
    assert all("RolloutError: POST /generate: HTTP 503: " in reason for reason in reasons)
    after = policy.members(60)
    assert [one["rank"] for one in after] == [0, 1]
    assert after[0]["pid"] == before[0]["pid"]
    assert after[1]["pid"] != before[1]["pid"]
    assert [one["version"] for one in after] == [8, 8]
    assert all(torch.equal(expected[key], again[key]) for key in expected)


def test_entry_without_call(driver: Driver) -> None:
    """Serve itself deploys an entry without __call__ and answers 500 to all; ours is refused before it is deployed."""
    assert driver.deploy("without_call") == ""
    assert requests.get(f"{driver.url}/silent", timeout=60).status_code == 500
    refused = driver.deploy("without_call_refused")
    assert refused == (
        "InferenceEngineError: InitializeError: Silent has no __call__, by which Serve calls an entry; its methods: generate"
    )


def test_missing_rank_in_the_environment(driver: Driver) -> None:
    """A replica that looks for RANK where nobody set it fails the deployment at once, by the names."""
    told = driver.deploy("without_environment")
    assert "environment variable RANK and WORLD_SIZE expected, but not set; Serve sets none" in told


def test_a_replica_that_never_finds_a_cpu(driver: Driver) -> None:
    """Deploying ends at its bound with the deployment that waits and what the cluster has."""
    told = driver.deploy("without_cpu")
    assert "not ready within 3 s: rank0 is UPDATING" in told
    assert "the cluster has 2 CPU, of which" in told


def test_a_device_ordinal_out_of_range(driver: Driver) -> None:
    """A replica more than there are devices: every request is told the ordinal, the rank and how many devices there are."""
    assert driver.deploy("without_device") == ""
    answer = requests.post(f"{driver.url}/generate", json={"prompts": ["1"]}, timeout=60)
    number = torch.cuda.device_count()
    assert answer.status_code == 503
    assert f"device ordinal {number} of rank {number} is out of range: its node has {number} CUDA" in answer.json()["error"]


def test_handle_called_without_remote(driver: Driver) -> None:
    """An entry that calls its handle directly answers 503 with Python's words and what to write instead."""
    assert driver.deploy("handle_called") == ""
    answer = requests.post(f"{driver.url}/generate", json={"prompts": ["1"]}, timeout=60)
    assert answer.status_code == 503
    assert answer.json()["error"] == (
        "'DeploymentHandle' object is not callable; call a method of the handle by handle.method.remote(...)"
    )
