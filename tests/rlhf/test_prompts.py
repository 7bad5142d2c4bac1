"""Text to tensors and back."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf.config import JobConfig
from rlhf.prompts import completion_text, encode_prompts, prompt_text, sample_prompts
from rlhf.task import EOS, SEP, sample_digits


@given(st.lists(st.text("0123456789", min_size=3, max_size=6), max_size=9))
def test_prompts_survive_encoding(texts):
    """Every digit comes back, every prompt ends at the last slot, and padding is masked."""
    batch = encode_prompts(texts, 8)
    assert prompt_text(batch["prompt_ids"], batch["prompt_mask"]) == texts
    assert bool((batch["prompt_ids"][:, -1] == SEP).all())
    assert batch["prompt_mask"].sum(dim=1).tolist() == [len(text) + 2 for text in texts]


def test_sampled_prompts_are_the_sampled_digits():
    """The batch of a step holds that step's digit strings, one group each."""
    config = JobConfig()
    batch = sample_prompts(config, 7)
    assert prompt_text(batch["prompt_ids"], batch["prompt_mask"]) == sample_digits(config, 7)
    assert batch["group_id"].tolist() == list(range(config.prompts_per_step))


def test_completions_end_before_eos_and_unended_ones_show_everything():
    """Text stops at EOS; an answer that never ended is not mistaken for one that did."""
    ids = torch.tensor([[1, 2, EOS, EOS], [1, 2, 3, 4], [EOS, EOS, EOS, EOS]])
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0]])
    assert completion_text(ids, mask) == ["12", "1234", ""]


def test_a_prompt_that_does_not_fit_is_refused():
    """Too many digits are an error, not a cut."""
    with pytest.raises(ValueError, match="7 digits does not fit 8 slots"):
        encode_prompts(["1234567"], 8)
