from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from injection.draw import resolve
from injection.fault_page import NOTES, PAGE, page
from injection.scenario import load_scenario
from storage.records import FaultKind

JOB = {"steps": 12, "train_workers": 2, "rollout_workers": 2, "reference_workers": 1}


def test_the_page_is_what_the_types_say() -> None:
    """docs/faults.md has not drifted from the code (`make fault-page` writes it)."""
    assert PAGE.read_text() == page()


def test_every_kind_is_on_the_page() -> None:
    """Each kind of the vocabulary has its notes, and there are no others."""
    assert set(yaml.safe_load(NOTES.read_text())) == {str(kind) for kind in FaultKind}


@pytest.mark.parametrize("kind", FaultKind)
def test_the_example_of_a_kind_is_a_fault(kind: FaultKind, tmp_path: Path) -> None:
    """What the page shows can be copied: a scenario with it is accepted, and makes a plan of that kind."""
    example = yaml.safe_load(NOTES.read_text())[kind]["example"]
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump({"name": "example", "title": "An example", "faults": [example]}))
    (fault,) = resolve(load_scenario(path), JOB, lambda _: 10.0, 1e5, seed=1, arm="legacy")
    assert fault["kind"] == kind
