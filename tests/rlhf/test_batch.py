"""Sharing a batch out and putting it together: no sample is lost, none invented, no size difference passes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf.batch import DistributedBatchMemory, ffd_allocate
from rlhf.errors import FrameworkError


def numbered(n: int) -> DistributedBatchMemory:
    return DistributedBatchMemory({"id": torch.arange(n), "wide": torch.arange(2 * n).reshape(n, 2)})


def ids(batches: list[DistributedBatchMemory]) -> list[int]:
    return [i for batch in batches for i in batch["id"].tolist()]


@given(st.integers(0, 40), st.integers(1, 9))
def test_split_is_contiguous_and_complete_and_concat_is_its_inverse(n, parts):
    """Shares have ceil(n / parts) rows until the rows run out; together they are the batch."""
    shares = numbered(n).split(parts)
    size = -(-n // parts)
    assert len(shares) == parts
    assert [len(share) for share in shares] == [max(0, min(size, n - part * size)) for part in range(parts)]
    assert ids(shares) == list(range(n))
    whole = DistributedBatchMemory.concat(shares)
    assert all(torch.equal(whole[key], numbered(n)[key]) for key in ("id", "wide"))


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.integers(1, 6), st.integers(50, 200))
def test_ffd_puts_each_value_in_one_group_within_capacity(values, min_groups, capacity):
    """Every index appears once, no group is over capacity, and there are enough groups; too few values are refused."""
    if len(values) < min_groups:
        with pytest.raises(RuntimeError, match=f"Number of values {len(values)} is smaller than min_groups {min_groups}"):
            ffd_allocate(values, capacity, min_groups)
        return
    groups = ffd_allocate(values, capacity, min_groups)
    assert sorted(index for group in groups for index in group) == list(range(len(values)))
    assert all(0 < sum(values[index] for index in group) <= capacity for group in groups)
    assert len(groups) >= min_groups


@given(st.lists(st.integers(1, 50), min_size=6, max_size=30), st.integers(1, 6))
def test_ffd_without_a_limit_balances_the_number_of_items(values, parts):
    """With room everywhere, groups differ by at most one item."""
    sizes = [len(group) for group in ffd_allocate(values, 10**12, parts)]
    assert len(sizes) == parts
    assert max(sizes) - min(sizes) <= 1


@given(st.integers(1, 5), st.integers(1, 4), st.lists(st.integers(1, 20), min_size=20, max_size=20))
def test_chunk_by_ffd_keeps_groups_whole(groups_per_part, parts, lengths):
    """Every sample is in one share and a group's rows stay together and in order."""
    n = groups_per_part * parts
    batch = numbered(4 * n)
    batch["seqlen"] = torch.tensor([lengths[row // 4 % 20] for row in range(4 * n)])
    shares = batch.chunk_by_ffd(4, parts)
    assert len(shares) == parts
    assert sorted(ids(shares)) == list(range(4 * n))
    for share in shares:
        rows = share["id"].reshape(-1, 4)
        assert torch.equal(rows, rows[:, :1] + torch.arange(4))


def test_an_incomplete_group_is_refused_with_the_known_text():
    """A batch that lost a sample cannot be shared out by groups."""
    batch = numbered(7)
    batch["seqlen"] = torch.ones(7, dtype=torch.int64)
    with pytest.raises(AssertionError, match="tensor length must be devided by group_size"):
        batch.chunk_by_ffd(4, 2)


def test_a_size_difference_is_an_error_that_names_key_and_both_sizes():
    """Constructor, column assignment and union all refuse a batch of two sizes, in the same words."""
    text = "FrameworkError: DistributedBatchMemoryError: Batch size mismatch for key 'b': expected 3, got 2"
    with pytest.raises(FrameworkError) as made:
        DistributedBatchMemory({"a": torch.zeros(3), "b": torch.zeros(2)})
    assert str(made.value) == text
    batch = DistributedBatchMemory({"a": torch.zeros(3)})
    with pytest.raises(FrameworkError) as assigned:
        batch["b"] = torch.zeros(2)
    assert str(assigned.value) == text
    assert "b" not in batch
    with pytest.raises(FrameworkError, match="for key 'b': expected 5, got 2"):
        batch.union(DistributedBatchMemory({"a": torch.zeros(2), "b": torch.zeros(2)}))


def test_a_column_can_be_replaced_by_one_of_its_size_and_scalars_are_refused():
    """A new tensor of the batch's size takes the place of the old one; a tensor without rows is not a column."""
    batch = DistributedBatchMemory({"a": torch.zeros(3), "b": torch.zeros(3)})
    batch["a"] = torch.ones(3)
    assert batch["a"].sum() == 3 and len(batch) == 3
    with pytest.raises(FrameworkError, match="no batch dimension"):
        batch["a"] = torch.tensor(1.0)


def test_union_appends_common_keys_and_takes_over_new_ones_of_the_whole_size():
    """Common keys are concatenated; a key of one side is kept where it fits the union."""
    merged = numbered(3).union(DistributedBatchMemory({"id": torch.arange(3, 5), "wide": torch.zeros(2, 2)}))
    assert merged["id"].tolist() == [0, 1, 2, 3, 4]
    assert numbered(3).union(DistributedBatchMemory({"more": torch.ones(3)})).keys() == ["id", "wide", "more"]


def test_concat_refuses_nothing_and_parts_with_other_keys():
    """No parts at all, or a part with other columns, is an error and not a guess."""
    with pytest.raises(FrameworkError, match="nothing to concatenate"):
        DistributedBatchMemory.concat([])
    with pytest.raises(FrameworkError, match="Key mismatch in part 1"):
        DistributedBatchMemory.concat([numbered(2), DistributedBatchMemory({"id": torch.arange(2)})])
