"""Sampling: one pass over the prompts, then one token at a time from a key/value cache reserved ahead."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rlhf.model import Policy, attention_bias


class Completions(NamedTuple):
    """`ids [b, n]` (EOS after the end), `mask [b, n]` (1 up to and with the first EOS), `logprobs [b, n]` in nats (0 after)."""

    ids: Tensor
    mask: Tensor
    logprobs: Tensor


@torch.no_grad()
def generate(
    model: Policy,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    new_tokens: int,
    temperature: float,
    generator: torch.Generator,
    reserve_bytes: int,
) -> Completions:
    """Sample `new_tokens` tokens after each prompt `[b, p]` (left-padded), by the Gumbel-max trick with `generator`.

    The generator is the CPU's, whatever the device: the noise is the same on all.
    """
    rows, start = prompt_ids.shape
    slots = start + new_tokens
    cache = model.reserve_cache(rows, slots, reserve_bytes)
    bias = attention_bias(torch.cat([prompt_mask, prompt_mask.new_ones(rows, new_tokens)], dim=1))
    noise = torch.empty(new_tokens, rows, model.vocabulary).exponential_(generator=generator)
    gumbel = noise.log_().neg_().to(prompt_ids.device)
    ids = prompt_ids.new_empty(rows, new_tokens)
    logprobs = gumbel.new_empty(rows, new_tokens)
    logits = model(prompt_ids, bias[:, :, :start, :start], 0, cache)[:, -1]
    for n in range(new_tokens):
        logp = torch.log_softmax(logits / temperature, dim=-1)
        token = (logp + gumbel[n]).argmax(dim=-1, keepdim=True)
        ids[:, n : n + 1] = token
        logprobs[:, n : n + 1] = logp.gather(-1, token)
        if n + 1 < new_tokens:
            slot = start + n
            logits = model(token, bias[:, :, slot : slot + 1, : slot + 1], slot, cache)[:, -1]
    ended = (ids == model.eos).int()
    mask = (ended.cumsum(dim=1) - ended == 0).long()
    return Completions(ids.masked_fill(mask == 0, model.eos), mask, logprobs * mask)
