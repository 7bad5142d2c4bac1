"""A Hugging Face causal language model from a local folder in the place of the built-in policy."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rlhf.config import JobConfig
from rlhf.engines.reference import ReferenceEngine
from rlhf.engines.rollout import RolloutEngine
from rlhf.engines.train import TrainEngine
from rlhf.hf_model import HfPolicy
from rlhf.model import token_logprobs
from rlhf.policies import build_policy
from rlhf.prompts import sample_prompts, text_of
from rlhf.sft import right_answers
from rlhf.task import sample_digits, score
from tests.rlhf.tiny_hf import save_gpt2, save_llama, save_tokenizer

SMALL = {"seed": 3, "train_workers": 1, "prompts_per_step": 6, "samples_per_prompt": 4}


@pytest.fixture(scope="module", params=["llama", "tied llama", "gpt2"])
def config(request, tmp_path_factory) -> JobConfig:
    folder = tmp_path_factory.mktemp("hf")
    make = {"llama": save_llama, "tied llama": lambda to: save_llama(to, tied=True), "gpt2": save_gpt2}[request.param]
    return JobConfig(**SMALL, model_path=str(make(folder)))


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> JobConfig:
    return JobConfig(**SMALL, model_path=str(save_llama(tmp_path_factory.mktemp("llama"))))


def batch_of(config: JobConfig, step: int = 0):
    batch = RolloutEngine(config, 0).generate(sample_prompts(config, step), step, score)
    batch["ref_logprobs"] = ReferenceEngine(config, 0).compute_logprobs(batch)
    return batch


def test_text_survives_the_tokenizer(llama: JobConfig):
    """Prompts and answers come back as they were, whatever pieces the tokenizer cuts them into and however long the padding."""
    text, digits = text_of(llama), [*sample_digits(llama, 0), "123412", "555"]
    prompts = text.encode(digits)
    assert text.prompt_text(prompts["prompt_ids"], prompts["prompt_mask"]) == digits
    assert len(set(prompts["prompt_mask"].sum(dim=1).tolist())) > 1, "no padding was tested"
    ids, mask = text.encode_answers(digits)
    assert text.completion_text(ids, mask) == digits
    assert len(text.encode([])) == 0


def test_logprobs_are_the_librarys_own_without_padding(config: JobConfig):
    """Each row's log-probabilities are those that the model itself gives for the row alone, unpadded, with its own mask."""
    policy = build_policy(config)
    batch = batch_of(config)
    ours = token_logprobs(policy, batch["input_ids"], batch["attention_mask"], 0.7)
    assert isinstance(policy, HfPolicy)
    for row in range(0, len(batch), 5):
        kept = batch["attention_mask"][row].bool()
        ids = batch["input_ids"][row][kept][None]
        logits = policy.lm(input_ids=ids).logits[:, :-1]
        theirs = torch.log_softmax(logits / 0.7, dim=-1).gather(-1, ids[:, 1:, None])[0, :, 0]
        torch.testing.assert_close(ours[row][kept[1:]][-len(theirs) :], theirs, atol=2e-5, rtol=1e-4)


def test_sampled_logprobs_are_those_of_one_full_pass(config: JobConfig):
    """What the cache says token by token is what training will see: at equal weights the policy ratio is 1."""
    batch = batch_of(config)
    kept = batch["loss_mask"][:, 1:].bool()
    torch.testing.assert_close(batch["logprobs"][kept], batch["ref_logprobs"][kept], atol=2e-5, rtol=1e-4)
    assert bool((batch["logprobs"][kept] < 0).all())


def test_a_grpo_step_moves_the_weights_and_they_travel(config: JobConfig):
    """One step trains every parameter; its shards load into a rollout engine, whose samples then differ."""
    engine = TrainEngine(config, 0)
    engine.initialize("", 0)
    before = engine.shard()
    figures = engine.train_batch(batch_of(config), 0)
    after = engine.shard()
    assert figures["grad_norm"] > 0 and abs(figures["kl"]) < 1e-2
    assert [name for name in before if not torch.equal(before[name], after[name])]
    assert 4 * sum(tensor.numel() for tensor in before.values()) == config.parameter_bytes
    rollout = RolloutEngine(config, 0)
    rollout.load_weights(after, 0)
    assert all(torch.equal(after[name], parameter) for name, parameter in rollout.model.named_parameters())


def test_it_learns_from_right_answers_and_resumes(llama: JobConfig, tmp_path: Path):
    """Thirty supervised steps halve the loss; a checkpoint in the middle leads to the same weights, bit for bit."""
    config = replace(llama, workload="sft", rollout_workers=0, reference_workers=0, prompts_per_step=16, learning_rate=1e-2)
    engine, resumed = TrainEngine(config, 0), TrainEngine(config, 0)
    engine.initialize("", 0)
    resumed.initialize("", 0)
    losses = []
    for step in range(30):
        losses.append(engine.train_batch(right_answers(config, step), step)["loss"])
        if step == 26:
            engine.save(tmp_path, step)
    assert losses[-1] < losses[0] / 2, losses
    for step in range(resumed.load(tmp_path) + 1, 30):
        resumed.train_batch(right_answers(config, step), step)
    one, two = engine.shard(), resumed.shard()
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda folder: (folder / "config.json").unlink(), r"no folder of a Hugging Face model \(there is no config.json\)"),
        (lambda folder: (folder / "model.safetensors").unlink(), "AutoModelForCausalLM cannot load it"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\xff" * 64), "AutoModelForCausalLM cannot load it"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "AutoTokenizer cannot load it"),
        (lambda folder: save_tokenizer(folder, eos=None), "has no EOS token"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "no-such"}'), "cannot load it"),
    ],
    ids=["no config", "no weights", "damaged weights", "damaged tokenizer", "no end", "unknown kind"],
)
def test_a_folder_that_is_no_model_is_refused_in_one_sentence(spoil, sentence: str, tmp_path: Path):
    """The error names the folder and what is wrong with it."""
    spoil(save_llama(tmp_path))
    with pytest.raises(ValueError, match=f"^model_path {tmp_path}: .*{sentence}") as caught:
        HfPolicy(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_pickled_weights_are_never_read(tmp_path: Path):
    """A folder with weights in pickle form alone is refused: what is read cannot run."""
    save_llama(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="cannot load it"):
        HfPolicy(str(tmp_path))
