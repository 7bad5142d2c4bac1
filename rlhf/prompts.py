"""Between text and tensors: prompts to left-padded token ids, ids back to text."""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf.batch import DistributedBatchMemory
from rlhf.config import JobConfig
from rlhf.task import BOS, CHARACTERS, EOS, SEP, prompt_length, sample_digits


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
    return encode_prompts(sample_digits(config, step), prompt_length(config))


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
