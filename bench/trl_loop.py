"""TRL's GRPOTrainer on the job's task, batch and model size, one thread; its interpreter has `bench/requirements-trl.txt`.

The model is a GPT-2 of the job's shape: learned positions, layer norms, a four times wider layer, untied head, as many
parameters. 16 prompts x 8 samples a step, two optimizer steps on them, KL 0.01 to the initial policy, float32. What the trainer
would do besides is switched off where it can be: mixed precision, gradient checkpointing, progress bars, saving. Serves turns
(`bench/turns.py`); a turn ends when its last optimizer step has.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from datasets import Dataset
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rlhf.config import CONTEXT, VOCABULARY, JobConfig
from rlhf.task import BOS, CHARACTERS, EOS, SEP, completion_length, sample_digits, score

#: Distinct prompts, more than are drawn.
STEPS = 400


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a character, as in the job."""
    inner = Tokenizer(WordLevel({character: token for token, character in enumerate(CHARACTERS)}, unk_token=CHARACTERS[EOS]))
    inner.pre_tokenizer = Split(Regex("."), "isolated")
    end = CHARACTERS[EOS]
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=end, pad_token=end, padding_side="left")


def model(config: JobConfig) -> GPT2LMHeadModel:
    shape = {"n_embd": config.model_dim, "n_layer": config.model_layers, "n_head": config.model_heads}
    tokens = {"vocab_size": VOCABULARY, "n_positions": CONTEXT, "bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": EOS}
    none = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    built = GPT2LMHeadModel(GPT2Config(**shape, **tokens, **none, tie_word_embeddings=False))
    assert 4 * built.num_parameters() == config.parameter_bytes, built.num_parameters()
    return built


def reward(prompts: list[str], completions: list[str], **_: object) -> list[float]:
    """The job's reward, from the texts."""
    return score([text.strip(CHARACTERS[BOS] + CHARACTERS[SEP]) for text in prompts], completions)


class Turns(TrainerCallback):
    """Holds the trainer where a step begins until there are steps to do. One of the job's is `inner_epochs` of its own."""

    def __init__(self, epochs: int):
        self._epochs, self._left, self._begun = epochs, 0, False

    def on_step_begin(self, *_: object, **__: object) -> None:
        if self._left == 0:
            print("done" if self._begun else "ready", flush=True)
            self._begun, line = True, sys.stdin.readline()
            if not line:
                sys.exit(0)
            self._left = self._epochs * int(line)
        self._left -= 1


def main() -> None:
    torch.set_num_threads(1)
    config = JobConfig()
    digits = [text for step in range(STEPS) for text in sample_digits(config, step)]
    prompts = [f"{CHARACTERS[BOS]}{text}{CHARACTERS[SEP]}" for text in digits]
    with tempfile.TemporaryDirectory() as folder:
        start = f"{folder}/start"  # the trainer loads the reference from where it loaded the policy
        model(config).save_pretrained(start)
        settings = GRPOConfig(
            output_dir=f"{folder}/out",
            model_init_kwargs={"dtype": "float32"},
            per_device_train_batch_size=config.prompts_per_step * config.samples_per_prompt,
            num_generations=config.samples_per_prompt,
            num_iterations=config.inner_epochs,
            max_completion_length=completion_length(config),
            max_steps=STEPS * config.inner_epochs,
            learning_rate=config.learning_rate,
            beta=config.kl_coefficient,
            epsilon=config.clip_ratio,
            max_grad_norm=config.grad_clip,
            temperature=config.temperature,
            loss_type="grpo",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            save_strategy="no",
            logging_steps=10,
            report_to="none",
            disable_tqdm=True,
        )
        trainer = GRPOTrainer(
            model=start,
            reward_funcs=reward,
            args=settings,
            train_dataset=Dataset.from_dict({"prompt": prompts}),
            processing_class=tokenizer(),
            callbacks=[Turns(config.inner_epochs)],
        )
        trainer.train()


if __name__ == "__main__":
    main()
