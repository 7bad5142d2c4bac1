"""Between text and tensors: prompts to left-padded token ids, ids back to text."""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from rlhf.batch import DistributedBatchMemory
from rlhf.config import JobConfig
from rlhf.task import BOS, CHARACTERS, EOS, SEP, completion_length, prompt_length, sample_digits


class Text(Protocol):
    """What a job reads and writes text with."""

    def encode(self, digits: list[str]) -> DistributedBatchMemory: ...
    def encode_answers(self, answers: list[str]) -> tuple[Tensor, Tensor]: ...
    def prompt_text(self, ids: Tensor, mask: Tensor) -> list[str]: ...
    def completion_text(self, ids: Tensor, mask: Tensor) -> list[str]: ...


def text_of(config: JobConfig) -> Text:
    """The way of writing of a job's policy: one token a character, or the tokenizer of its Hugging Face model."""
    return _hf_text(config.model_path) if config.model_path else CharacterText(config)


@lru_cache(maxsize=1)
def _hf_text(model_path: str) -> Text:
    from rlhf.hf_text import HfText  # an extra, and seconds to import

    return HfText(model_path)


class CharacterText:
    """One token a character, in slots of fixed number."""

    def __init__(self, config: JobConfig):
        self._config = config

    def encode(self, digits: list[str]) -> DistributedBatchMemory:
        return encode_prompts(digits, prompt_length(self._config))

    def encode_answers(self, answers: list[str]) -> tuple[Tensor, Tensor]:
        """Ids and mask `[n, completion length]` of answers with EOS, right-padded."""
        length = completion_length(self._config)
        rows = [[int(digit) for digit in text] + [EOS] * (length - len(text)) for text in answers]
        masks = [[1] * (len(text) + 1) + [0] * (length - len(text) - 1) for text in answers]
        shape = (len(answers), length)
        return torch.tensor(rows, dtype=torch.int64).reshape(shape), torch.tensor(masks, dtype=torch.int64).reshape(shape)

    def prompt_text(self, ids: Tensor, mask: Tensor) -> list[str]:
        return prompt_text(ids, mask)

    def completion_text(self, ids: Tensor, mask: Tensor) -> list[str]:
        return completion_text(ids, mask)


def encode_prompts(digits: list[str], length: int) -> DistributedBatchMemory:
    """Digit strings as a batch of ``prompt_ids [n, length]``, ``prompt_mask`` and ``group_id [n]``.

    Prompts end at the same slot (left padding), so a completion's first token always has the same position.
    """
    rows, masks = [], []
    for text in digits:
        ids = [BOS, *(int(digit) for digit in text), SEP]
        if len(ids) > length:
            raise ValueError(f"a prompt of {len(text)} digits does not fit {length} slots")
        padding = length - len(ids)
        rows.append([EOS] * padding + ids)
        masks.append([0] * padding + [1] * len(ids))
    shape = (len(digits), length)
    return DistributedBatchMemory(
        {
            "prompt_ids": torch.tensor(rows, dtype=torch.int64).reshape(shape),
            "prompt_mask": torch.tensor(masks, dtype=torch.int64).reshape(shape),
            "group_id": torch.arange(len(digits)),
        }
    )


def sample_prompts(config: JobConfig, step: int) -> DistributedBatchMemory:
    """The prompts of one step, one row a prompt; the same for the same seed and step."""
    return text_of(config).encode(sample_digits(config, step))


def to_text(ids: Tensor, mask: Tensor) -> list[str]:
    """The characters of each row where the mask is 1, without BOS and SEP of a prompt's frame and without EOS at the end."""
    texts = []
    for row, kept in zip(ids.tolist(), mask.tolist(), strict=True):
        texts.append("".join(CHARACTERS[token] for token, keep in zip(row, kept, strict=True) if keep))
    return texts


def prompt_text(ids: Tensor, mask: Tensor) -> list[str]:
    """The digits between BOS and SEP, per row."""
    return [text[1:-1] for text in to_text(ids, mask)]


def completion_text(ids: Tensor, mask: Tensor) -> list[str]:
    """What was answered before EOS, per row; a row that never ended shows all its tokens."""
    return [text.removesuffix(CHARACTERS[EOS]) for text in to_text(ids, mask)]
