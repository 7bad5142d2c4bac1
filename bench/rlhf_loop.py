"""Samples per second of the engines, composed in one process, against a plain loop of the same task, batch and thread.

    python bench/rlhf_loop.py [ROUNDS]

The plain loop is what one would write on one page: the same transformer as an ordinary module, sampling by running the
whole sequence again for every token, one optimizer step per epoch. Both take turns, so that a busy machine slows both.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rlhf.batch import DistributedBatchMemory
from rlhf.config import JobConfig
from rlhf.engines.reference import ReferenceEngine
from rlhf.engines.rollout import RolloutEngine
from rlhf.engines.train import TrainEngine
from rlhf.prompts import completion_text, prompt_text, sample_prompts
from rlhf.task import EOS, completion_length, score

STEPS_PER_TURN = 5


def engines(config: JobConfig) -> Callable[[int], None]:
    """One step of the engines as the controller composes them, without processes and wires."""
    trainer = TrainEngine(config, 0)
    trainer.initialize("", 0)
    workers = [RolloutEngine(config, rank) for rank in range(config.rollout_workers)]
    reference = ReferenceEngine(config, 0)

    def step(n: int) -> None:
        for worker in workers:
            worker.load_weights(trainer.shard(), n)
        shares = sample_prompts(config, n).split(len(workers))
        parts = [worker.generate(share, n, score) for worker, share in zip(workers, shares, strict=True)]
        batch = DistributedBatchMemory.concat(parts)
        batch["ref_logprobs"] = reference.compute_logprobs(batch)
        [share] = batch.chunk_by_ffd(config.samples_per_prompt, 1)
        trainer.train_batch(share, n)

    return step


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


def main(rounds: int) -> None:
    torch.set_num_threads(1)
    config = JobConfig(train_workers=1)
    samples = config.prompts_per_step * config.samples_per_prompt * STEPS_PER_TURN
    loops = {"engines": engines(config), "plain": plain(config)}
    rates: dict[str, list[float]] = {name: [] for name in loops}
    for turn in range(rounds + 1):
        for name, step in loops.items():
            begin = time.perf_counter()
            for n in range(STEPS_PER_TURN):
                step(turn * STEPS_PER_TURN + n)
            rates[name].append(samples / (time.perf_counter() - begin))
    median = {name: statistics.median(values[1:]) for name, values in rates.items()}  # the first turn warms up
    for name, value in median.items():
        print(f"{name:8} {value:7.0f} samples/s (min {min(rates[name][1:]):.0f}, max {max(rates[name][1:]):.0f}, n={rounds})")
    print(f"engines / plain = {median['engines'] / median['plain']:.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 12)
