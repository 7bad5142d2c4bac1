"""The served policy in the place of a rollout engine: the same calls, answered over HTTP.

A worker of the job has it over its own link (`session`); anybody else by its URL.
"""

from __future__ import annotations

from typing import Any

import requests
import torch
from torch import Tensor

from rlhf import wire
from rlhf.batch import DistributedBatchMemory
from rlhf.config import JobConfig
from rlhf.engines.rollout import Score
from rlhf.errors import InferenceEngineError
from rlhf.prompts import text_of
from rlhf.request_id import REQUEST_ID, request_id
from rlhf.serving import protocol


class ServedRolloutEngine:
    """As `rlhf.engines.rollout.RolloutEngine`; `version` is that of the weights the last answer came from."""

    def __init__(self, config: JobConfig, url: str, session: requests.Session | None = None):
        self.config, self.url = config, url.rstrip("/")
        self.version = -1
        self._session = session or requests.Session()
        self._session.trust_env = False

    def members(self, timeout_s: float) -> list[dict[str, Any]]:
        """Who is which rank, with device, version and pid; they meet now if they have not. Raises InferenceEngineError."""
        members: list[dict[str, Any]] = self._ask("GET", protocol.HEALTH, b"", timeout_s, "InitializeError").json()["members"]
        return members

    def load_weights(self, tensors: dict[str, Tensor], version: int) -> None:
        """Replace the weights of all ranks. Raises InferenceEngineError (UpdateWeightError)."""
        body, timeout_s = wire.encode({"version": version}, tensors), self.config.timeout_s("update_weights")
        answer = self._ask("PUT", protocol.WEIGHTS, body, timeout_s, "UpdateWeightError")
        self.version = int(answer.json()["version"])

    def generate(self, prompts: DistributedBatchMemory, step: int, score: Score, stream: int = 0) -> DistributedBatchMemory:
        """Samples of each prompt, scored here; `stream` as of a RolloutEngine. Raises InferenceEngineError (RolloutError)."""
        body, timeout_s = wire.encode({"step": step, "stream": stream}, prompts.state()), self.config.timeout_s("rollout")
        answer = self._ask("POST", protocol.GENERATE, body, timeout_s, "RolloutError")
        meta, tensors = wire.decode(answer.content)
        batch = DistributedBatchMemory(tensors)
        self.version = int(meta["version"])
        text = text_of(self.config)
        asked = text.prompt_text(batch["input_ids"], batch["attention_mask"] - batch["loss_mask"])
        answers = text.completion_text(batch["input_ids"], batch["loss_mask"])
        batch["rewards"] = torch.tensor(score(asked, answers), dtype=torch.float32)
        return batch

    def _ask(self, method: str, path: str, body: bytes, timeout_s: float, sub_error: str) -> requests.Response:
        headers = {"content-type": protocol.TENSORS, REQUEST_ID: request_id()}
        try:
            answer = self._session.request(method, f"{self.url}{path}", data=body, headers=headers, timeout=timeout_s)
        except requests.RequestException as error:
            raise InferenceEngineError(sub_error, f"{method} {path}: {error}") from error
        if not answer.ok:
            raise InferenceEngineError(sub_error, f"{method} {path}: HTTP {answer.status_code}: {_reason(answer)}")
        return answer


def _reason(answer: requests.Response) -> str:
    try:
        return str(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        return answer.text.strip()[:200]
