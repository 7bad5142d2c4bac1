"""Checkpoints that are durable before they are visible and checked before they are used."""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rlhf.config import JobConfig, Posture
from rlhf.engines.train import TrainEngine
from rlhf.resilience import checkpoint
from rlhf.resilience.checkpoint import LINK, DamagedCheckpointError, load_checkpoint, save_checkpoint, verify_checkpoint


def _state(value: float) -> dict:
    return {"model": {"w": torch.full((3,), value)}, "optimizer": {"lr": value}}


def _latest(folder: Path) -> Path:
    return (folder / LINK).resolve()


def test_every_changed_byte_is_found(tmp_path: Path) -> None:
    """Any one bit of any byte of any file of a small checkpoint, and any truncation or addition, is detected."""
    save_checkpoint(tmp_path, {"w": torch.arange(3.0)}, 7)
    path = _latest(tmp_path)
    assert verify_checkpoint(path) == (7, ["w.pt"])
    changes = 0
    for file in sorted(path.iterdir()):
        whole = file.read_bytes()
        damaged = [whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :] for place in range(len(whole))]
        damaged += [whole[:size] for size in range(len(whole))] + [whole + b"\0", whole + b"\n"]
        for content in damaged:
            file.write_bytes(content)
            with pytest.raises(DamagedCheckpointError):
                verify_checkpoint(path)
        changes += len(damaged)
        file.write_bytes(whole)
    assert changes > 2000
    verify_checkpoint(path)


def test_a_missing_or_strange_file_is_found(tmp_path: Path) -> None:
    """A checkpoint holds the files of its manifest, all of them and no other."""
    save_checkpoint(tmp_path, _state(1.0), 2)
    (_latest(tmp_path) / "strange.pt").write_bytes(b"")
    with pytest.raises(DamagedCheckpointError, match=r"strange\.pt"):
        verify_checkpoint(_latest(tmp_path))
    (_latest(tmp_path) / "strange.pt").unlink()
    (_latest(tmp_path) / "model.pt").unlink()
    with pytest.raises(DamagedCheckpointError):
        verify_checkpoint(_latest(tmp_path))


def test_what_was_saved_is_what_loads(tmp_path: Path) -> None:
    """The newest loads, the one before it is kept, older ones and steps of a course given up are gone."""
    for step in (2, 4, 6, 5):
        sizes = save_checkpoint(tmp_path, _state(step), step)
        assert set(sizes) == {"model.pt", "optimizer.pt", "manifest.json"}
        state, at = load_checkpoint(tmp_path)
        assert at == step and torch.equal(state["model"]["w"], _state(step)["model"]["w"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint_000000004.0", "checkpoint_000000005.0", LINK]


def test_a_damaged_checkpoint_costs_steps_not_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With the newest damaged the one before it loads, with a warning; with none whole or none at all, an error."""
    with pytest.raises(FileNotFoundError):
        load_checkpoint(tmp_path)
    save_checkpoint(tmp_path, _state(2.0), 2)
    save_checkpoint(tmp_path, _state(4.0), 4)
    model = _latest(tmp_path) / "model.pt"
    model.write_bytes(model.read_bytes()[:-40])
    assert load_checkpoint(tmp_path)[1] == 2
    assert [record.levelname for record in caplog.records] == ["WARNING"] and "model.pt" in caplog.text
    for path in tmp_path.glob("checkpoint_*"):
        (path / "model.pt").write_bytes(b"")
    with pytest.raises(DamagedCheckpointError, match="none of 2"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("second", [2, 4], ids=["same step", "next step"])
def test_a_save_may_stop_anywhere(second: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a full disk, or killed, before any one of its syncs, renames and links: a save leaves a whole checkpoint."""
    calls = _count(monkeypatch)
    save_checkpoint(tmp_path / "whole", _state(2.0), second)
    whole = len(calls)
    assert whole >= 8
    for error in (OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()):
        for stop in range(whole):
            folder = tmp_path / f"{type(error).__name__}{stop}"
            calls.clear()
            save_checkpoint(folder, _state(2.0), 2)
            calls.clear()
            calls.stop_at(stop, error)
            with monkeypatch.context() as patched:
                if isinstance(error, KeyboardInterrupt):  # who is killed cleans nothing up
                    patched.setattr(shutil, "rmtree", lambda *_, **__: None)
                with pytest.raises(type(error)):
                    save_checkpoint(folder, _state(4.0), second)
            calls.stop_at(-1, error)
            state, _ = load_checkpoint(folder)
            assert state["optimizer"]["lr"] in (2.0, 4.0)
            assert torch.equal(state["model"]["w"], _state(state["optimizer"]["lr"])["model"]["w"])
            verify_checkpoint(_latest(folder))
            save_checkpoint(folder, _state(8.0), 8)
            assert load_checkpoint(folder)[1] == 8


class _Calls(list):
    """What was asked of the file system, in order; may refuse one of them."""

    _stop: tuple[int, BaseException] | None = None

    def stop_at(self, number: int, error: BaseException) -> None:
        self._stop = (number, error) if number >= 0 else None

    def note(self, name: str) -> None:
        if self._stop and len(self) == self._stop[0]:
            raise self._stop[1]
        self.append(name)


def _count(monkeypatch: pytest.MonkeyPatch) -> _Calls:
    calls = _Calls()

    def counted(name: str, function):
        def call(*arguments, **named):
            calls.note(name)
            return function(*arguments, **named)

        return call

    monkeypatch.setattr(os, "fsync", counted("fsync", os.fsync))
    for name in ("rename", "replace", "symlink_to"):
        monkeypatch.setattr(Path, name, counted(name, getattr(Path, name)))
    return calls


def test_files_are_durable_before_they_are_visible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file and the folder are synced before the rename, the rename before the link."""
    calls = _count(monkeypatch)
    save_checkpoint(tmp_path, _state(2.0), 2)
    assert calls == ["fsync"] * 4 + ["rename", "fsync", "symlink_to", "replace", "fsync"]


@pytest.mark.parametrize("atomic", [False, True], ids=["legacy", "hardened"])
def test_the_switch_decides_what_a_failed_save_costs(atomic: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the same parity, a save that fails half-way leaves the legacy trainer nothing, the hardened one its last step."""
    config = replace(JobConfig(train_workers=1), posture=Posture(atomic_checkpoint=atomic))
    engine = TrainEngine(config, 0)
    engine.initialize("", 0)
    engine.save(tmp_path, 2)
    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", _full_disk)
        with pytest.raises(OSError, match="No space left"):
            engine.save(tmp_path, 4)
    if atomic:
        assert engine.load(tmp_path) == 2
    else:
        with pytest.raises(FileNotFoundError):
            engine.load(tmp_path)
    shutil.rmtree(tmp_path)
    assert engine.save(tmp_path / "new", 6)["model.pt"] > 400_000
    assert engine.load(tmp_path / "new") == 6


def _full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_the_same_step_again_removes_nothing_first(tmp_path: Path) -> None:
    """Saving a step twice keeps both until the second is the latest."""
    save_checkpoint(tmp_path, _state(1.0), 3)
    save_checkpoint(tmp_path, _state(2.0), 3)
    assert [path.name for path in checkpoint._newest_first(tmp_path)] == ["checkpoint_000000003.1", "checkpoint_000000003.0"]
    assert load_checkpoint(tmp_path)[0]["optimizer"] == {"lr": 2.0}
