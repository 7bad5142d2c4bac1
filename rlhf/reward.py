"""Scoring of completions, in a process of its own; and how a rollout worker asks for it."""

from __future__ import annotations

import logging

import requests
from aiohttp import web

from rlhf import beats, seam, task
from rlhf.config import JobConfig
from rlhf.errors import FrameworkError
from rlhf.links import open_session
from rlhf.plain import parse_json
from rlhf.request_id import REQUEST_ID
from rlhf.stats import StatsTracker

logger = logging.getLogger(__name__)

CLIENT_MAX_BYTES = 64 << 20


def app() -> web.Application:
    """The HTTP application: POST /score, GET /health."""
    application = web.Application(client_max_size=CLIENT_MAX_BYTES)
    application.add_routes([web.post("/score", _score), web.get("/health", _health)])
    return application


async def _score(request: web.Request) -> web.Response:
    try:
        asked = parse_json(await request.read())
        prompts, completions = list(map(str, asked["prompts"])), list(map(str, asked["completions"]))
        rewards = task.score(prompts, completions)
        logger.info("scored %d completions request_id=%s", len(rewards), request.headers.get(REQUEST_ID, "-"))
        return web.json_response({"rewards": rewards})
    except (ValueError, KeyError, TypeError) as error:
        return web.Response(status=400, text=f"expected two equally long lists of texts, prompts and completions: {error!r}")


async def _health(_: web.Request) -> web.Response:
    return web.json_response({"status": "healthy"})


class RewardClient:
    """A rollout worker's scorer; announces the stage `reward`. Set `step` before use."""

    def __init__(self, component: str, config: JobConfig, stats: StatsTracker):
        self.step = -1
        self._config, self._stats = config, stats
        self._session = open_session(component, "reward", "reward")

    def score(self, prompts: list[str], completions: list[str]) -> list[float]:
        """A reward in [0, 1] for each completion. Raises FrameworkError (RewardError).

        With posture `on_reward_failure: zero` what cannot be scored counts as wrong, with a warning, and nothing is raised.
        """
        with seam.stage("reward", self.step):
            try:
                with self._stats.record_call("reward", "score", "reward"):
                    return self._ask({"prompts": prompts, "completions": completions})
            except FrameworkError as error:
                if self._config.posture.on_reward_failure == "raise":
                    raise
                logger.warning("%d completions get reward 0: %s", len(completions), error)
                return [0.0] * len(completions)

    def _ask(self, body: dict[str, list[str]]) -> list[float]:
        try:
            with beats.unless_offline("reward", self._session):
                response = self._session.post("http://reward/score", json=body, timeout=self._config.timeout_s("reward"))
        except requests.RequestException as error:
            raise FrameworkError("RewardError", f"reward of step {self.step}: {error}") from error
        if not response.ok:
            raise FrameworkError("RewardError", f"reward of step {self.step}: HTTP {response.status_code}: {response.text}")
        rewards: list[float] = response.json()["rewards"]
        return rewards
