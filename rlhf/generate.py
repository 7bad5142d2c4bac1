"""Sampling: one pass over the prompts, then one token at a time from a key/value cache reserved ahead."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rlhf.config import VOCABULARY
from rlhf.model import Decoder, attention_bias
from rlhf.task import EOS


class Completions(NamedTuple):
    """`ids [b, n]` (EOS after the end), `mask [b, n]` (1 up to and with the first EOS), `logprobs [b, n]` in nats (0 after)."""

    ids: Tensor
    mask: Tensor
    logprobs: Tensor


def reserve_cache(model: Decoder, rows: int, slots: int, reserve_bytes: int) -> Tensor:
    """A cache `[layers, 2, rows, heads, slots, dim / heads]` at the front of one allocation of `reserve_bytes`.

    Raises ValueError when that is too small for the rows, and whatever torch raises when the memory is not to be had.
    """
    shape = (len(model.blocks), 2, rows, model.heads, slots, model.dim // model.heads)
    elements = 2 * len(model.blocks) * rows * slots * model.dim
    region = torch.empty(reserve_bytes // 4, dtype=torch.float32)
    if elements > region.numel():
        raise ValueError(f"{rows} rows of {slots} slots need a cache of {4 * elements} bytes, reserved are {reserve_bytes}")
    return region[:elements].view(shape)


@torch.no_grad()
def generate(
    model: Decoder,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    new_tokens: int,
    temperature: float,
    generator: torch.Generator,
    reserve_bytes: int,
) -> Completions:
    """Sample `new_tokens` tokens after each prompt `[b, p]` (left-padded), by the Gumbel-max trick with `generator`."""
    rows, start = prompt_ids.shape
    slots = start + new_tokens
    cache = reserve_cache(model, rows, slots, reserve_bytes)
    bias = attention_bias(torch.cat([prompt_mask, prompt_mask.new_ones(rows, new_tokens)], dim=1))
    gumbel = torch.empty(new_tokens, rows, VOCABULARY).exponential_(generator=generator).log_().neg_()
    ids = torch.empty(rows, new_tokens, dtype=torch.int64)
    logprobs = torch.empty(rows, new_tokens)
    logits = model(prompt_ids, bias[:, :, :start, :start], 0, cache)[:, -1]
    for n in range(new_tokens):
        logp = torch.log_softmax(logits / temperature, dim=-1)
        token = (logp + gumbel[n]).argmax(dim=-1, keepdim=True)
        ids[:, n : n + 1] = token
        logprobs[:, n : n + 1] = logp.gather(-1, token)
        if n + 1 < new_tokens:
            slot = start + n
            logits = model(token, bias[:, :, slot : slot + 1, : slot + 1], slot, cache)[:, -1]
    ended = (ids == EOS).int()
    mask = (ended.cumsum(dim=1) - ended == 0).long()
    return Completions(ids.masked_fill(mask == 0, EOS), mask, logprobs * mask)
