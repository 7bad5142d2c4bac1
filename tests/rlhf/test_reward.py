"""Scoring over a socket."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator

import pytest
import requests

from rlhf import links, reward
from rlhf.config import JobConfig
from rlhf.errors import FrameworkError
from rlhf.metaserver import serve_app


@pytest.fixture
def address(job_folder: Callable[[JobConfig], object]) -> Iterator[str]:
    job_folder(JobConfig())
    loop = asyncio.new_event_loop()
    runner = loop.run_until_complete(serve_app(reward.app(), links.listen("reward", "reward")))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield "http://{}:{}".format(*links.listen_address("reward", "reward"))
    loop.call_soon_threadsafe(loop.stop)
    thread.join(30)
    loop.run_until_complete(runner.cleanup())
    loop.close()


def test_completions_are_scored(address: str) -> None:
    """A worker gets one reward per completion: 1 for the reversal, partial credit for part of it."""
    rewards = reward.RewardClient("rollout0", JobConfig()).score(["123", "123", "45"], ["321", "300", ""])
    assert rewards == [1.0, pytest.approx(1 / 3), 0.0]


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"prompts": 3, "completions": []}', b'{"prompts": ["1"], "completions": []}']
)
def test_nonsense_is_a_400(address: str, body: bytes) -> None:
    """A request that is not two equally long lists is refused with one sentence."""
    answer = requests.post(f"{address}/score", data=body, timeout=5)
    assert answer.status_code == 400
    assert answer.text.startswith("expected two equally long lists of texts")


def test_nobody_to_score_is_a_reward_error(job_folder: Callable[[JobConfig], object]) -> None:
    """Without the reward process a rollout gets RewardError naming the step, never a made-up reward."""
    job_folder(JobConfig())
    client = reward.RewardClient("rollout0", JobConfig())
    client.step = 5
    with pytest.raises(FrameworkError, match="RewardError: reward of step 5"):
        client.score(["1"], ["1"])
