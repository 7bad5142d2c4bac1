"""Truth's door: private files, whole or not at all."""

from __future__ import annotations

import pytest

from storage import truth
from storage.layout import RunPaths
from storage.records import Label
from storage.seal import new_salt


@pytest.fixture
def paths(tmp_path):
    return RunPaths(tmp_path / "run").create()


def test_what_is_saved_is_loaded_and_private(paths):
    """Plan, label, salt and names come back equal, from files that only their owner may read."""
    label = Label(
        fault=True, component="train1", stage="weights_update", kinds=("network-bandwidth", "noop"), peer="metaserver", step=6
    )
    salt, plan, names = new_salt(), {"scenario": "x", "faults": []}, {"train1": "w-3fa1"}
    truth.save_plan(paths, plan)
    truth.save_label(paths, label)
    truth.save_salt(paths, salt)
    truth.save_names(paths, names)
    loaded = (truth.load_plan(paths), truth.load_label(paths), truth.load_salt(paths), truth.load_names(paths))
    assert loaded == (plan, label, salt, names)
    assert paths.truth.stat().st_mode & 0o777 == 0o700
    files = [path for path in paths.truth.iterdir() if path.is_file()]
    assert len(files) == 4 and {path.stat().st_mode & 0o777 for path in files} == {0o600}


def test_a_torn_history_loses_its_torn_line_only(paths):
    """Whole lines are read in order; the torn last one and garbage between are named."""
    assert truth.load_history(paths) == []
    paths.history.write_bytes(b'{"what": "armed"}\n\xff\n[1]\n{"what": "fired"}\n{"what": "app')
    history, problems = truth.load_history_with_problems(paths)
    assert [line["what"] for line in history] == ["armed", "fired"]
    assert [problem.split(":")[1] for problem in problems] == ["2", "3", "5"]


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"fault": true}', b'{"kinds": 3}', b'{"kinds": [], "strange": 1}'])
def test_damaged_truth_is_named(paths, content):
    """A damaged label raises a ValueError that names the file."""
    paths.label.write_bytes(content)
    with pytest.raises(ValueError, match=r"label\.json"):
        truth.load_label(paths)
