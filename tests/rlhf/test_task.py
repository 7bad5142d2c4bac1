"""The task's text side: what a prompt is and what an answer is worth."""

import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from rlhf.config import JobConfig
from rlhf.task import exact_match, partial_credit, sample_digits, score

digits = st.text("0123456789", min_size=1, max_size=8)
answers = st.one_of(digits, st.text("0123456789^=$", max_size=9))


@given(digits, answers)
def test_partial_credit_is_between_0_and_1_and_1_only_for_the_exact_answer(prompt, answer):
    """A reward of 1 and an exact match are the same thing; nothing is outside [0, 1]."""
    reward = partial_credit(prompt, answer)
    assert 0.0 <= reward <= 1.0
    assert (reward == 1.0) == exact_match(prompt, answer)


@given(digits, st.text("0123456789", max_size=9), st.integers(0, 7))
def test_one_more_right_position_never_pays_less(prompt, answer, where):
    """Correcting one position of an answer raises its reward or leaves it."""
    target = prompt[::-1]
    where = min(where, len(target) - 1)
    if where < len(answer):
        corrected = answer[:where] + target[where] + answer[where + 1 :]
        assert partial_credit(prompt, corrected) >= partial_credit(prompt, answer)


def test_known_answers_have_known_rewards():
    """Rewards are what one counts by hand."""
    assert score(["1234", "1234", "1234", "123"], ["4321", "4300", "43", "3219"]) == [1.0, 0.5, 0.5, 0.75]


def test_prompts_depend_on_seed_and_step_alone_and_have_every_allowed_length():
    """The same seed and step draw the same prompts, other steps others, and no length is out of range or left out."""
    config = JobConfig(seed=3)
    assert sample_digits(config, 5) == sample_digits(JobConfig(seed=3), 5)
    assert sample_digits(config, 5) != sample_digits(config, 6)
    assert sample_digits(config, 5) != sample_digits(JobConfig(seed=4), 5)
    lengths = {len(text) for step in range(20) for text in sample_digits(config, step)}
    assert lengths == {3, 4, 5, 6}


def test_scoring_does_not_load_torch():
    """The reward process can start without the cost of torch."""
    code = "import sys, rlhf.task; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
