"""A batch that travels between processes: named tensors, one row per sample; how to share it out and put it together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from rlhf.errors import FrameworkError

#: Tokens a share may hold: no limit in practice, shares are balanced by their number of groups.
SHARE_CAPACITY = 10**12


class DistributedBatchMemory:
    """Tensors with equal dim 0, checked when made and when a column is set.

    Raises FrameworkError (DistributedBatchMemoryError) when sizes differ: a batch of two sizes has lost or gained samples.
    """

    def __init__(self, tensors: Mapping[str, Tensor]):
        self._tensors: dict[str, Tensor] = {}
        for key, tensor in tensors.items():
            self[key] = tensor

    def __setitem__(self, key: str, tensor: Tensor) -> None:
        if tensor.ndim == 0:
            raise FrameworkError("DistributedBatchMemoryError", f"key '{key}' has no batch dimension")
        others = [size.shape[0] for name, size in self._tensors.items() if name != key]
        if others and tensor.shape[0] != others[0]:
            text = f"Batch size mismatch for key '{key}': expected {others[0]}, got {tensor.shape[0]}"
            raise FrameworkError("DistributedBatchMemoryError", text)
        self._tensors[key] = tensor

    def __getitem__(self, key: str) -> Tensor:
        if key not in self._tensors:
            text = f"no key '{key}'; the batch has {', '.join(self._tensors) or 'none'}"
            raise FrameworkError("DistributedBatchMemoryError", text)
        return self._tensors[key]

    def __contains__(self, key: object) -> bool:
        return key in self._tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        """Number of samples (rows)."""
        return next((tensor.shape[0] for tensor in self._tensors.values()), 0)

    def keys(self) -> list[str]:
        return list(self._tensors)

    def state(self) -> dict[str, Tensor]:
        """The tensors by name: what `wire.encode` takes; `DistributedBatchMemory(state)` is the way back."""
        return dict(self._tensors)

    def rows(self, index: Tensor | slice) -> DistributedBatchMemory:
        """The samples at `index`, in its order."""
        return DistributedBatchMemory({key: tensor[index] for key, tensor in self._tensors.items()})

    def split(self, parts: int) -> list[DistributedBatchMemory]:
        """Contiguous shares of ceil(n / parts) samples; the last ones may be short or empty."""
        if parts < 1:
            raise ValueError(f"parts must be at least 1, not {parts}")
        size = -(-len(self) // parts)
        return [self.rows(slice(part * size, (part + 1) * size)) for part in range(parts)]

    def chunk_by_ffd(self, group_size: int, parts: int) -> list[DistributedBatchMemory]:
        """`parts` shares of whole groups (`group_size` consecutive rows), allotted by their tokens (`seqlen`).

        Raises AssertionError when a group is incomplete, RuntimeError when there are fewer groups than shares.
        """
        assert len(self) % group_size == 0, "tensor length must be devided by group_size"
        lengths = self["seqlen"].reshape(-1, group_size).sum(dim=1).tolist()
        rows = torch.arange(len(self)).reshape(-1, group_size)
        shares = ffd_allocate(lengths, SHARE_CAPACITY, min_groups=parts)
        return [self.rows(rows[share].reshape(-1)) for share in shares]

    def union(self, other: DistributedBatchMemory) -> DistributedBatchMemory:
        """Rows of both. A key that only one side has is taken over as it is, so its size must be that of the union."""
        merged = dict(self._tensors)
        for key, tensor in other.state().items():
            merged[key] = torch.cat([merged[key], tensor]) if key in merged else tensor
        return DistributedBatchMemory(merged)

    @staticmethod
    def concat(batches: Sequence[DistributedBatchMemory]) -> DistributedBatchMemory:
        """All rows, in order; every batch must have the same keys."""
        if not batches:
            raise FrameworkError("DistributedBatchMemoryError", "nothing to concatenate")
        keys = batches[0].keys()
        for position, batch in enumerate(batches):
            if set(batch.keys()) != set(keys):
                text = f"Key mismatch in part {position}: expected {sorted(keys)}, got {sorted(batch.keys())}"
                raise FrameworkError("DistributedBatchMemoryError", text)
        return DistributedBatchMemory({key: torch.cat([batch[key] for batch in batches]) for key in keys})


def ffd_allocate(values: Sequence[int], capacity: int, min_groups: int) -> list[list[int]]:
    """First-fit-decreasing: indices of `values` in at least `min_groups` groups, each of at most `capacity` in sum.

    Largest first; a new group while there are fewer than `min_groups` or none has room; else the group with the fewest items
    (of equals the lightest). Groups are sorted inside and by their first index. Raises RuntimeError with too few values.
    """
    if len(values) < min_groups:
        raise RuntimeError(f"Number of values {len(values)} is smaller than min_groups {min_groups}")
    groups: list[list[int]] = []
    sums: list[int] = []
    for index in sorted(range(len(values)), key=lambda i: -values[i]):
        if values[index] > capacity:
            raise RuntimeError(f"Value {values[index]} is larger than the capacity {capacity}")
        roomy = [g for g in range(len(groups)) if sums[g] + values[index] <= capacity]
        if len(groups) < min_groups or not roomy:
            groups.append([index])
            sums.append(values[index])
        else:
            group = min(roomy, key=lambda g: (len(groups[g]), sums[g]))
            groups[group].append(index)
            sums[group] += values[index]
    return sorted(sorted(group) for group in groups)
