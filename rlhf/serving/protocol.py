"""What goes over HTTP: routes, and requests and answers as people (JSON) and as trainers (tensors) write them. No Ray."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlhf import wire
from rlhf.batch import DistributedBatchMemory
from rlhf.config import VOCABULARY, JobConfig
from rlhf.plain import parse_json
from rlhf.prompts import text_of
from rlhf.task import prompt_length

GENERATE, WEIGHTS, HEALTH = "/generate", "/weights", "/health"
#: A body of tensors (`rlhf.wire`); anything else is JSON.
TENSORS = "application/octet-stream"
BODY_LIMIT_BYTES = 64 << 20


@dataclass(frozen=True)
class Ask:
    """A request for samples; `texts` are the prompts of one asked in JSON, None of one asked in tensors.

    `stream` numbers those who ask for shares of the same step, so that each is sampled with random numbers of its own.
    """

    prompts: DistributedBatchMemory
    step: int
    texts: list[str] | None
    stream: int = 0


def read(kind: str, body: bytes, config: JobConfig) -> Ask:
    """A request's body of a content type. Raises ValueError with the reason for one that makes no sense."""
    return of_tensors(*wire.decode(body), config) if kind == TENSORS else of_json(parse_json(body), config)


def write(ask: Ask, batch: DistributedBatchMemory, version: int, config: JobConfig) -> tuple[bytes, str]:
    """The answer's body and content type, in the form that was asked in."""
    if ask.texts is None:
        return wire.encode({"version": version}, batch.state()), TENSORS
    results = samples_of(ask.texts, batch, config)
    return json.dumps({"version": version, "step": ask.step, "results": results}).encode(), "application/json"


def of_json(document: Any, config: JobConfig) -> Ask:
    """From ``{"prompts": ["123"], "step": 0}``. Raises ValueError with the reason."""
    if not isinstance(document, dict):
        raise ValueError('a request is an object such as {"prompts": ["123"]}')  # noqa: TRY004 - bad input
    texts = document.get("prompts")
    if not isinstance(texts, list) or not texts:
        raise ValueError("prompts must be a list of at least one string of digits")
    for text in texts:
        if not (isinstance(text, str) and text.isascii() and text.isdigit() and len(text) <= config.max_digits):
            raise ValueError(f"a prompt is 1 to {config.max_digits} digits, not {text!r}")
    return Ask(text_of(config).encode(texts), _whole("step", document.get("step", 0)), texts)


def of_tensors(meta: dict[str, Any], tensors: dict[str, Tensor], config: JobConfig) -> Ask:
    """From a batch of prompts as rollout engines take it. Raises ValueError with the reason.

    How long a prompt is and which tokens there are is known of the built-in policy alone; a Hugging Face model judges itself.
    """
    shape = tuple(tensors["prompt_ids"].shape) if "prompt_ids" in tensors else ()
    n, slots = shape if config.model_path and len(shape) == 2 else ((*shape, 0)[0], prompt_length(config))
    for name, shape in (("prompt_ids", (n, slots)), ("prompt_mask", (n, slots)), ("group_id", (n,))):
        found = tensors.get(name)
        if found is None or tuple(found.shape) != shape or found.dtype != torch.int64:
            told = "nothing" if found is None else f"{found.dtype} {list(found.shape)}"
            raise ValueError(f"{name} must be int64 {list(shape)}, not {told}")
    for name, limit in (("prompt_ids", sys.maxsize if config.model_path else VOCABULARY), ("prompt_mask", 2)):
        if n and not 0 <= int(tensors[name].min()) <= int(tensors[name].max()) < limit:
            raise ValueError(f"{name} must lie in 0..{limit - 1}")
    kept = {name: tensors[name] for name in ("prompt_ids", "prompt_mask", "group_id")}
    return Ask(DistributedBatchMemory(kept), _whole("step", meta.get("step")), None, _whole("stream", meta.get("stream", 0)))


def samples_of(prompts: list[str], batch: DistributedBatchMemory, config: JobConfig) -> list[dict[str, Any]]:
    """For JSON: of each prompt its samples, each the completion and the log-probability (nats) of each of its tokens."""
    kept = batch["loss_mask"][:, 1:].bool()
    logprobs = [row[mask].tolist() for row, mask in zip(batch["logprobs"], kept, strict=True)]
    completions = text_of(config).completion_text(batch["input_ids"], batch["loss_mask"])
    rows = [{"completion": text, "logprobs": row} for text, row in zip(completions, logprobs, strict=True)]
    n = config.samples_per_prompt
    return [{"prompt": text, "samples": rows[index * n : (index + 1) * n]} for index, text in enumerate(prompts)]


def version_of(meta: dict[str, Any]) -> int:
    """The version of a message of weights. Raises ValueError unless it has one."""
    return _whole("version", meta.get("version"))


def _whole(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{name} must be a whole number from 0, not {value!r}")
    return value
