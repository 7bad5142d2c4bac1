"""The policy: what engines ask of one, and the built-in one, a tiny decoder-only transformer with learned positions."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rlhf.config import CONTEXT, VOCABULARY, JobConfig
from rlhf.task import EOS

#: Attention that looks at this many slots, or a multiple, takes a quarter of the time on a CPU: vector registers are full.
SLOTS = 16


class Policy(nn.Module):
    """Token ids to logits. `vocabulary` is the width of the logits, `eos` the token that ends an answer."""

    vocabulary: int
    eos: int
    #: Where caches are put, instead of into memory of their own: float32 `[n]`.
    cache_memory: Tensor | None = None

    def layers(self) -> list[nn.Module]:
        """The repeated layers, from first to last: what is sharded one by one."""
        raise NotImplementedError

    def reserve_cache(self, rows: int, slots: int, reserve_bytes: int) -> Any:
        """A key/value cache for `rows` sequences of at most `slots` tokens, to be handed to `forward`."""
        raise NotImplementedError


class Block(nn.Module):
    """Attention and a four times wider layer, each normalised before and added after."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.project = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.widen = nn.Linear(dim, 4 * dim)
        self.narrow = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor, bias: Tensor, start: int, cache: Tensor | None) -> Tensor:
        """`x [b, t, dim]` at slots start..start+t; `cache [2, b, heads, slots, dim / heads]` is written and read.

        `bias [b, 1, t, width]` hides the slots that hold nothing: all of the cache, or of `width`, are looked at.
        """
        b, t, dim = x.shape
        query, key, value = self.qkv(self.norm1(x)).view(b, t, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        if cache is not None:
            cache[0, :, :, start : start + t] = key
            cache[1, :, :, start : start + t] = value
            key, value = cache
        elif more := bias.shape[-1] - t:
            key, value = functional.pad(key, (0, 0, 0, more)), functional.pad(value, (0, 0, 0, more))
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        x = x + self.project(attended.transpose(1, 2).reshape(b, t, dim))
        widened: Tensor = self.narrow(functional.gelu(self.widen(self.norm2(x))))
        return x + widened


class Decoder(Policy):
    """The built-in policy."""

    vocabulary, eos = VOCABULARY, EOS

    def __init__(self, dim: int, heads: int, layers: int):
        super().__init__()
        if dim % heads:
            raise ValueError(f"model_dim {dim} is not a multiple of model_heads {heads}")
        self.dim, self.heads = dim, heads
        self.token = nn.Embedding(VOCABULARY, dim)
        self.position = nn.Embedding(CONTEXT, dim)
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, VOCABULARY, bias=False)

    def forward(self, ids: Tensor, bias: Tensor, start: int = 0, cache: Tensor | None = None) -> Tensor:
        """Logits `[b, t, vocabulary]` of `ids [b, t]` at slots start..start+t; `bias [b, 1, t, start + t]`."""
        x = self.token(ids) + self.position.weight[start : start + ids.shape[1]]
        width = _width(bias.shape[-1]) if cache is None else cache.shape[-2]
        bias = functional.pad(bias, (0, width - bias.shape[-1]), value=float("-inf"))
        for layer, block in enumerate(self.blocks):
            x = block(x, bias, start, None if cache is None else cache[layer])
        logits: Tensor = self.head(self.norm(x))
        return logits

    def layers(self) -> list[nn.Module]:
        return list(self.blocks)

    def reserve_cache(self, rows: int, slots: int, reserve_bytes: int) -> Tensor:
        """A cache `[layers, 2, rows, heads, width, dim / heads]` at the front of one allocation of `reserve_bytes`, all zero.

        Raises ValueError when that is too small for the rows, and whatever torch raises when the memory is not to be had.
        """
        shape = (len(self.blocks), 2, rows, self.heads, _width(slots), self.dim // self.heads)
        elements = math.prod(shape)
        region = self.cache_memory
        if region is None:
            region = torch.empty(reserve_bytes // 4, dtype=torch.float32, device=self.head.weight.device)
        if elements > region.numel():
            raise ValueError(f"{rows} rows of {slots} slots need a cache of {4 * elements} bytes, reserved are {reserve_bytes}")
        return region[:elements].zero_().view(shape)


def _width(slots: int) -> int:
    """The next multiple of SLOTS."""
    return -(-slots // SLOTS) * SLOTS


def build_model(config: JobConfig) -> Decoder:
    """The initial policy of a job: the same parameters in every process that has the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = Decoder(config.model_dim, config.model_heads, config.model_layers)
        for name, parameter in model.named_parameters():
            if name in ("token.weight", "position.weight"):
                nn.init.normal_(parameter, std=0.02)
    return model


def attention_bias(mask: Tensor) -> Tensor:
    """Additive attention bias `[b, 1, t, t]` of a token mask `[b, t]`: causal, and padding is seen by nobody but itself.

    (A slot that could see nothing at all would be not a number.)
    """
    slots = mask.shape[1]
    seen = mask.bool()[:, None, None, :] & torch.ones(slots, slots, dtype=torch.bool, device=mask.device).tril()
    seen = seen | torch.eye(slots, dtype=torch.bool, device=mask.device)
    return torch.zeros(seen.shape, device=mask.device).masked_fill_(~seen, float("-inf"))


def token_logprobs(model: Policy, ids: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """Log-probability `[b, t - 1]`, in nats, of each token of `ids [b, t]` after those before it."""
    logits: Tensor = model(ids[:, :-1], attention_bias(mask[:, :-1])) / temperature
    chosen = logits.gather(-1, ids[:, 1:, None]).squeeze(-1)
    return chosen - logits.logsumexp(dim=-1)  # log_softmax of so few classes is six times slower
