"""The task: reverse a string of digits. Vocabulary, prompts as text, two scores. No torch: the reward process imports it."""

from __future__ import annotations

import random

from rlhf.config import JobConfig

#: Token ids 0-9 are the digits; the three others follow. Padding is EOS with a zero in the mask.
BOS, SEP, EOS = 10, 11, 12
#: One printable character per token, so that a wrong completion reads as what it is.
CHARACTERS = "0123456789^=$"


def prompt_length(config: JobConfig) -> int:
    """Slots of a prompt: BOS, the digits, SEP."""
    return config.max_digits + 2


def completion_length(config: JobConfig) -> int:
    """Slots of a completion: the digits, EOS."""
    return config.max_digits + 1


def sample_digits(config: JobConfig, step: int) -> list[str]:
    """The digit strings of one step's prompts; the same for the same seed and step."""
    source = random.Random(f"prompts {config.seed} {step}")  # noqa: S311 - a reproducible draw, not a secret
    lengths = [source.randint(config.min_digits, config.max_digits) for _ in range(config.prompts_per_step)]
    return ["".join(source.choices("0123456789", k=length)) for length in lengths]


def exact_match(prompt: str, completion: str) -> bool:
    """Whether the completion is the prompt's digits in reverse, and nothing more."""
    return completion == prompt[::-1]


def partial_credit(prompt: str, completion: str) -> float:
    """Reward in [0, 1]: right positions over the length of the longer of answer and target; 1 only for an exact match."""
    target = prompt[::-1]
    right = sum(a == b for a, b in zip(completion, target, strict=False))
    return right / max(len(target), len(completion), 1)


def score(prompts: list[str], completions: list[str]) -> list[float]:
    """The reward of each completion."""
    return [partial_credit(prompt, completion) for prompt, completion in zip(prompts, completions, strict=True)]
