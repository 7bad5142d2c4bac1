"""Scoring over a socket."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator

import pytest
import requests

from rlhf import links, reward
from rlhf.config import JobConfig, Posture
from rlhf.errors import FrameworkError
from rlhf.metaserver import serve_app
from rlhf.stats import StatsTracker
from tests.rlhf.job_folder import JobFolder


@pytest.fixture
def folder(job_folder: Callable[[JobConfig], JobFolder]) -> JobFolder:
    return job_folder(JobConfig())


@pytest.fixture
def client(folder: JobFolder) -> Iterator[reward.RewardClient]:
    with StatsTracker(folder.path / "stats" / "rollout0.jsonl", "rollout0") as stats:
        yield reward.RewardClient("rollout0", JobConfig(), stats)


@pytest.fixture
def address(folder: JobFolder) -> Iterator[str]:
    loop = asyncio.new_event_loop()
    runner = loop.run_until_complete(serve_app(reward.app(), links.listen("reward", "reward")))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield "http://{}:{}".format(*links.listen_address("reward", "reward"))
    loop.call_soon_threadsafe(loop.stop)
    thread.join(30)
    loop.run_until_complete(runner.cleanup())
    loop.close()


def test_completions_are_scored(address: str, client: reward.RewardClient, folder: JobFolder) -> None:
    """A worker gets one reward per completion: 1 for the reversal, partial credit for part of it; the request is told."""
    assert client.score(["123", "123", "45"], ["321", "300", ""]) == [1.0, pytest.approx(1 / 3), 0.0]
    assert folder.stats("rollout0", "rpc/score/failed_count") == [0.0]


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"prompts": 3, "completions": []}', b'{"prompts": ["1"], "completions": []}']
)
def test_nonsense_is_a_400(address: str, body: bytes) -> None:
    """A request that is not two equally long lists is refused with one sentence."""
    answer = requests.post(f"{address}/score", data=body, timeout=5)
    assert answer.status_code == 400
    assert answer.text.startswith("expected two equally long lists of texts")


def test_nobody_to_score_is_a_reward_error(client: reward.RewardClient, folder: JobFolder) -> None:
    """Without the reward process a rollout gets RewardError naming the step, never a made-up reward; that is told."""
    client.step = 5
    with pytest.raises(FrameworkError, match="RewardError: reward of step 5"):
        client.score(["1"], ["1"])
    assert folder.stats("rollout0", "rpc/score/failed_count") == [1.0]


def test_nobody_to_score_may_be_reward_zero(folder: JobFolder) -> None:
    """With posture `on_reward_failure: zero` a lost reward process costs a warning and the rewards; the failed call is told."""
    config = JobConfig(posture=Posture(on_reward_failure="zero"))
    with StatsTracker(folder.path / "stats" / "rollout0.jsonl", "rollout0") as stats:
        assert reward.RewardClient("rollout0", config, stats).score(["1", "2"], ["1", "2"]) == [0.0, 0.0]
    assert folder.stats("rollout0", "rpc/score/failed_count") == [1.0]
