"""Tiny Hugging Face models with a tokenizer of their own, made and saved here: nothing is downloaded."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TOKENS = ["<s>", "</s>", "<unk>", "=", *"0123456789", "12", "34"]


def save_tokenizer(folder: Path, eos: str | None = "</s>") -> None:
    """Byte-pair pieces over digits: "12" and "34" are one token each, so answers differ in tokens as well as in digits."""
    merges = [("1", "2"), ("3", "4")]
    tokenizer = Tokenizer(models.BPE(vocab={token: n for n, token in enumerate(TOKENS)}, merges=merges, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("=", "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token=eos).save_pretrained(folder)


def save_llama(folder: Path, *, tied: bool = False) -> Path:
    """A Llama of two layers: rotary positions, grouped keys, gated layers."""
    config = LlamaConfig(
        vocab_size=len(TOKENS),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
        bos_token_id=0,
        eos_token_id=1,
    )
    return _save(LlamaForCausalLM, config, folder)


def save_gpt2(folder: Path) -> Path:
    """A GPT-2 of one layer: learned positions, which left padding must not shift; tied embeddings."""
    config = GPT2Config(vocab_size=len(TOKENS), n_positions=64, n_embd=32, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=1)
    return _save(GPT2LMHeadModel, config, folder)


def _save(kind: type, config: object, folder: Path) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        kind(config).save_pretrained(folder)
    save_tokenizer(folder)
    assert json.loads((folder / "config.json").read_text())["vocab_size"] == len(TOKENS)
    return folder
