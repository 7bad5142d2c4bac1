"""A Hugging Face causal language model from a local folder, as a policy. Needs the extra `hf` (transformers).

Nothing is downloaded, no code of the folder is run, and weights are read from safetensors only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from rlhf.model import Policy


def load_tokenizer(model_path: str) -> Any:
    """The tokenizer in the folder. Raises ValueError when there is none, or none with an end-of-sequence token."""
    tokenizer = _load("AutoTokenizer", model_path)
    if tokenizer.eos_token_id is None:
        raise ValueError(f"model_path {model_path}: its tokenizer has no EOS token, so no answer could end")
    return tokenizer


class HfPolicy(Policy):
    """The model with the call of the built-in one. Its own mask and positions are given in full, never guessed from padding."""

    def __init__(self, model_path: str):
        super().__init__()
        self.eos = int(load_tokenizer(model_path).eos_token_id)
        self.lm = _load("AutoModelForCausalLM", model_path, dtype=torch.float32, use_safetensors=True)
        self.vocabulary = int(self.lm.config.get_text_config().vocab_size)
        if not any(isinstance(module, nn.ModuleList) for module in self.lm.modules()):
            raise ValueError(f"model_path {model_path}: {type(self.lm).__name__} is not a stack of layers")

    def forward(self, ids: Tensor, bias: Tensor, start: int = 0, cache: Any = None) -> Tensor:
        """Logits `[b, t, vocabulary]` of `ids [b, t]`; `bias [b, 1, t, start + t]` is 0 where a token sees another."""
        del start  # the cache knows
        positions = (bias == 0).sum(dim=-1)[:, 0] - 1  # how many real tokens stand before
        output = self.lm(
            input_ids=ids,
            attention_mask=bias,
            position_ids=positions,
            past_key_values=cache,
            use_cache=cache is not None,
        )
        logits: Tensor = output.logits
        return logits

    def layers(self) -> list[nn.Module]:
        return list(next(module for module in self.lm.modules() if isinstance(module, nn.ModuleList)))

    def reserve_cache(self, rows: int, slots: int, reserve_bytes: int) -> Any:
        """A cache of the library's own, which grows with the text: nothing is reserved ahead."""
        del rows, slots, reserve_bytes
        from transformers import DynamicCache

        return DynamicCache(config=self.lm.config)


def _load(kind: str, model_path: str, **options: Any) -> Any:
    """`transformers.<kind>.from_pretrained`, without network. Raises ValueError, in one sentence, for what cannot be loaded."""
    if not (Path(model_path) / "config.json").is_file():
        raise ValueError(f"model_path {model_path}: no folder of a Hugging Face model (there is no config.json)")
    try:
        import transformers
    except ImportError as error:
        raise ValueError("model_path needs the package transformers, which the extra 'hf' installs") from error
    transformers.utils.logging.disable_progress_bar()  # a log is no terminal
    try:
        return getattr(transformers, kind).from_pretrained(model_path, local_files_only=True, **options)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"model_path {model_path}: {kind} cannot load it: {str(error).splitlines()[0]}") from error
