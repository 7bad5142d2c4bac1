"""The plain loop: what one would write on one page, in one process, on one thread. The yardstick of the others.

The transformer of the job as an ordinary module, sampling by running the whole sequence again for every token, one optimizer
step per inner epoch. No cache, no processes, no wires, no checkpoints. As a program it serves turns (`bench/turns.py`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.turns import serve
from rlhf.config import JobConfig
from rlhf.prompts import completion_text, prompt_text, sample_prompts
from rlhf.task import EOS, completion_length, score


class Layer(nn.Module):
    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.project = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        b, t, d = x.shape
        q, k, v = (part.view(b, t, self.heads, -1).transpose(1, 2) for part in self.qkv(self.norm1(x)).chunk(3, dim=-1))
        y = functional.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        x = x + self.project(y.transpose(1, 2).reshape(b, t, d))
        return x + self.mlp(self.norm2(x))


class Policy(nn.Module):
    def __init__(self, config: JobConfig):
        super().__init__()
        dim = config.model_dim
        self.token, self.position = nn.Embedding(13, dim), nn.Embedding(32, dim)
        self.layers = nn.ModuleList(Layer(dim, config.model_heads) for _ in range(config.model_layers))
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, 13, bias=False)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        t = ids.shape[1]
        seen = (mask.bool()[:, None, None] & torch.ones(t, t).tril().bool()) | torch.eye(t).bool()
        x = self.token(ids) + self.position(torch.arange(t))
        for layer in self.layers:
            x = layer(x, seen)
        return self.head(self.norm(x))

    def logprobs(self, ids: Tensor, mask: Tensor) -> Tensor:
        logits = self(ids, mask)[:, :-1]
        return torch.log_softmax(logits, dim=-1).gather(-1, ids[:, 1:, None]).squeeze(-1)


def plain(config: JobConfig) -> Callable[[int], None]:
    """One step of the plain loop."""
    policy, frozen = Policy(config), Policy(config)
    frozen.load_state_dict(policy.state_dict())
    optimizer = torch.optim.AdamW(policy.parameters(), lr=config.learning_rate)
    new, repeats = completion_length(config), config.samples_per_prompt

    def step(n: int) -> None:
        prompts = sample_prompts(config, n)
        ids, mask = (prompts[key].repeat_interleave(repeats, dim=0) for key in ("prompt_ids", "prompt_mask"))
        start = ids.shape[1]
        asked = prompt_text(ids, mask)
        with torch.no_grad():
            for _ in range(new):
                token = torch.multinomial(torch.softmax(policy(ids, mask)[:, -1], dim=-1), 1)
                ids, mask = torch.cat([ids, token], dim=1), torch.cat([mask, torch.ones_like(token)], dim=1)
            ended = (ids[:, start:] == EOS).int()
            mask[:, start:] = (ended.cumsum(dim=1) - ended == 0).long()
            old, reference = policy.logprobs(ids, mask), frozen.logprobs(ids, mask)
        rewards = torch.tensor(score(asked, completion_text(ids[:, start:], mask[:, start:]))).view(-1, repeats)
        gain = ((rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)).view(-1, 1)
        kept = mask[:, 1:].float() * (torch.arange(ids.shape[1] - 1) >= start - 1)
        for _ in range(config.inner_epochs):
            now = policy.logprobs(ids, mask)
            ratio = (now - old).exp()
            objective = torch.minimum(ratio * gain, ratio.clamp(1 - config.clip_ratio, 1 + config.clip_ratio) * gain)
            kl = (reference - now).exp() - (reference - now) - 1
            loss = ((config.kl_coefficient * kl - objective) * kept).sum(1).div(kept.sum(1)).mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(policy.parameters(), config.grad_clip)
            optimizer.step()

    return step


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(1)
    serve(plain(JobConfig()))
