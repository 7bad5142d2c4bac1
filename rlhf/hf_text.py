"""Between text and tensors with the tokenizer of a Hugging Face model; the interface is that of `rlhf.prompts.Text`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rlhf.batch import DistributedBatchMemory
from rlhf.hf_model import load_tokenizer

#: Stands between the digits and the answer.
FRAME = "="


class HfText:
    """Prompts are `<digits>=` as the tokenizer writes them, left-padded to the longest; answers end with its EOS."""

    def __init__(self, model_path: str):
        self._tokenizer = load_tokenizer(model_path)
        self._eos = int(self._tokenizer.eos_token_id)

    def encode(self, digits: list[str]) -> DistributedBatchMemory:
        """As `rlhf.prompts.encode_prompts`, `[n, longest]`."""
        rows = [self._tokenizer(text + FRAME)["input_ids"] for text in digits]
        ids, mask = self._padded([row[:-1] if row[-1] == self._eos else row for row in rows], left=True)
        return DistributedBatchMemory({"prompt_ids": ids, "prompt_mask": mask, "group_id": torch.arange(len(digits))})

    def encode_answers(self, answers: list[str]) -> tuple[Tensor, Tensor]:
        """Ids and mask `[n, longest]` of answers with EOS, right-padded."""
        rows = [self._tokenizer(text, add_special_tokens=False)["input_ids"] for text in answers]
        return self._padded([[*row, self._eos] for row in rows], left=False)

    def prompt_text(self, ids: Tensor, mask: Tensor) -> list[str]:
        """The digits before the frame, per row."""
        return [text.removesuffix(FRAME).strip() for text in self._decoded(ids, mask)]

    def completion_text(self, ids: Tensor, mask: Tensor) -> list[str]:
        """What was answered before EOS, per row."""
        return self._decoded(ids, mask)

    def _padded(self, rows: Sequence[list[int]], *, left: bool) -> tuple[Tensor, Tensor]:
        longest = max((len(row) for row in rows), default=0)
        ids = torch.full((len(rows), longest), self._eos, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for n, row in enumerate(rows):
            place = slice(longest - len(row), longest) if left else slice(0, len(row))
            ids[n, place] = torch.tensor(row, dtype=torch.int64)
            mask[n, place] = 1
        return ids, mask

    def _decoded(self, ids: Tensor, mask: Tensor) -> list[str]:
        rows = [row[kept.bool() & (row != self._eos)].tolist() for row, kept in zip(ids, mask, strict=True)]
        return [str(self._tokenizer.decode(row, skip_special_tokens=True)).strip() for row in rows]
