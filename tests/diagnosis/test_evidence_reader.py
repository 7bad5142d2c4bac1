import json
from pathlib import Path

import pytest

from diagnosis.reader import EvidenceReader, OutsideTierError

TEXT = "2000-01-01 00:00:00.000 INFO w-a: one\n2000-01-01 00:00:01.000 ERROR w-a: two\nTraceback\n  three\n"


@pytest.fixture
def case(tmp_path: Path) -> Path:
    """A case with one file in each tier, a secret beside it, and a link to the secret inside."""
    (tmp_path / "truth").mkdir()
    (tmp_path / "truth" / "label.json").write_text("secret")
    root = tmp_path / "evidence"
    for tier in ("t0", "t1"):
        (root / tier).mkdir(parents=True)
        (root / tier / "w-a.log").write_text(TEXT)
    (root / "t0" / "link.log").symlink_to(tmp_path / "truth" / "label.json")
    tiers = {"T0": ["t0/w-a.log", "t0/link.log"], "T1": ["t0/w-a.log", "t1/w-a.log"]}
    (root / "manifest.json").write_text(json.dumps({"tiers": tiers}))
    return root


@pytest.mark.parametrize(
    "path", ["../truth/label.json", "t0/../../truth/label.json", "t1/w-a.log", "t0/link.log", "/etc/passwd", ""]
)
def test_paths_outside_the_tier_are_refused(case: Path, path: str) -> None:
    """Parents, absolute paths, links, unlisted names and higher tiers cannot be read."""
    with pytest.raises(OutsideTierError):
        EvidenceReader(case, "T0").read(path)


def test_meter_counts_what_is_served(case: Path) -> None:
    """Files count once; calls, lines and bytes count each time."""
    reader = EvidenceReader(case, "T1")
    assert reader.list_files() == ["t0/w-a.log", "t1/w-a.log"]
    assert reader.read("t0/w-a.log", start=2, n=2) == TEXT.splitlines()[1:3]
    assert reader.grep("ERROR", "t0/w-a.log") == [(2, TEXT.splitlines()[1])]
    assert reader.tail("t1/w-a.log", 1) == ["  three"]
    served = [*TEXT.splitlines()[1:3], TEXT.splitlines()[1], "  three"]
    assert reader.meter.to_dict() == {"calls": 4, "files": 2, "lines": 4, "bytes": sum(len(line) + 1 for line in served)}


def test_records_keep_their_tracebacks(case: Path) -> None:
    """Lines without a head belong to the record above."""
    first, second = EvidenceReader(case, "T0").records("t0/w-a.log")
    assert (first.text, first.is_error, second.line) == ("one", False, 2)
    assert second.text == "two\nTraceback\n  three"
    assert second.is_error


def test_unknown_tier_is_refused(case: Path) -> None:
    """A tier that the case does not have is an error, not an empty one."""
    with pytest.raises(OutsideTierError, match="no tier 'T3'"):
        EvidenceReader(case, "T3")
