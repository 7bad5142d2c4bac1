"""Checkpoints in the legacy way, with what it promises and what it does not."""

import json

import pytest
import torch

from rlhf.checkpoint import load_checkpoint, save_checkpoint, size_of


def state(value: float) -> dict:
    return {"model": {"w": torch.full((3,), value)}, "optimizer": {"lr": value}}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_last_save_is_what_loads_and_the_other_parity_is_gone(tmp_path):
    """Odd and even steps alternate between two folders; only the one the link names remains."""
    for step, parity in ((1, "odd"), (2, "even"), (4, "even"), (7, "odd")):
        sizes = save_checkpoint(tmp_path, state(step), step)
        assert names(tmp_path) == ["latest_checkpoint", f"latest_checkpoint_{parity}"]
        assert (tmp_path / "latest_checkpoint").readlink().name == f"latest_checkpoint_{parity}"
        loaded, at = load_checkpoint(tmp_path)
        assert at == step and loaded["optimizer"] == {"lr": step}
        assert torch.equal(loaded["model"]["w"], state(step)["model"]["w"])
        assert set(sizes) == {"model.pt", "optimizer.pt", "recover_info.json"}
        assert sizes["model.pt"] == (tmp_path / "latest_checkpoint" / "model.pt").stat().st_size
        assert size_of(tmp_path, step) == sum(sizes.values()) and size_of(tmp_path, step + 1) == 0


def test_the_recover_info_tells_the_step(tmp_path):
    """What a person looks at first is plain JSON."""
    save_checkpoint(tmp_path, state(1.0), 12)
    assert json.loads((tmp_path / "latest_checkpoint" / "recover_info.json").read_text())["step"] == 12


def test_a_save_that_fails_at_the_same_parity_has_destroyed_the_only_good_copy(tmp_path):
    """The legacy order removes the target before writing its successor: after a failed save nothing loads."""
    save_checkpoint(tmp_path, state(2.0), 2)
    with pytest.raises(TypeError):
        save_checkpoint(tmp_path, {"model": _Unwritable()}, 4)
    assert (tmp_path / "latest_checkpoint").readlink().name == "latest_checkpoint_even"
    with pytest.raises(FileNotFoundError):
        load_checkpoint(tmp_path)


def test_a_save_that_fails_at_the_other_parity_leaves_the_last_one(tmp_path):
    """With changing parity a failed save costs nothing."""
    save_checkpoint(tmp_path, state(2.0), 2)
    with pytest.raises(TypeError):
        save_checkpoint(tmp_path, {"model": _Unwritable()}, 3)
    assert load_checkpoint(tmp_path)[1] == 2


def test_a_damaged_file_and_a_missing_checkpoint_are_errors(tmp_path):
    """Nothing is made up where there is nothing to load, and a cut file is torch's own error."""
    with pytest.raises(FileNotFoundError):
        load_checkpoint(tmp_path)
    save_checkpoint(tmp_path, state(2.0), 2)
    model = tmp_path / "latest_checkpoint" / "model.pt"
    model.write_bytes(model.read_bytes()[:-40])
    with pytest.raises(RuntimeError):
        load_checkpoint(tmp_path)


class _Unwritable:
    def __reduce__(self):
        raise TypeError("not to be written")
