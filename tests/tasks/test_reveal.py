import json
import shutil
from pathlib import Path

import pytest

from storage.layout import RunPaths
from storage.truth import load_label
from tasks.answers import keep_answer, read_answers
from tasks.diagnose import diagnose_run
from tasks.reveal import check_seal, reveal_run
from tasks.score import score_run
from tasks.seal import seal_run
from tests.synthetic_job import make_run


@pytest.fixture
def run(tmp_path: Path) -> RunPaths:
    """A sealed run with one answer."""
    paths = make_run(tmp_path)
    seal_run(paths)
    diagnose_run(paths, ["first-error"], ["T1"])
    return paths


def test_whoever_has_the_public_files_can_check_them(run: RunPaths) -> None:
    """Before the reveal nothing tells the label, after it the commitment opens with what was published, without the truth."""
    assert check_seal(run) == {"revealed": False, "answers": 1, "refused": [], "problems": []}
    public = "".join(path.read_text() for folder in (run.evidence, run.answers) for path in folder.rglob("*") if path.is_file())
    opened = reveal_run(run)
    assert opened["salt"] not in public and opened["label"]["component"] == load_label(run).component == "train1"
    shutil.rmtree(run.truth)
    assert check_seal(run) == {"revealed": True, "answers": 1, "refused": [], "problems": []}


def test_an_answer_after_the_reveal_is_refused(run: RunPaths) -> None:
    """Nobody is asked any more, and an answer that was slipped into the chain is named and not judged."""
    [answer] = read_answers(run).kept
    assert reveal_run(run) == reveal_run(run)
    with pytest.raises(ValueError, match="is revealed: no answer counts any more"):
        diagnose_run(run, ["random"], ["T0"])
    keep_answer(run, answer | {"diagnoser": "oracle"}, "")
    score = score_run(run)
    assert score["refused"] == [{"answer": "oracle-T1.json", "reason": "it came after the reveal"}]
    assert [verdict["diagnoser"] for verdict in score["verdicts"]] == ["first-error"]


def test_an_answer_that_saw_more_than_its_tier_is_refused(run: RunPaths) -> None:
    """The notes of an answer tell what it was served; a file of a higher tier is enough to refuse it."""
    [answer] = read_answers(run).kept
    path = next(path for path in json.loads((run.evidence / "manifest.json").read_text())["files"] if path.startswith("t1/"))
    keep_answer(run, answer | {"diagnoser": "climber", "tier": "T0"}, json.dumps({"path": path, "error": None}) + "\n")
    keep_answer(run, answer | {"diagnoser": "honest", "tier": "T0"}, json.dumps({"path": path, "error": "no"}) + "\n")
    score = score_run(run)
    [refused] = score["refused"]
    assert refused == {"answer": "climber-T0.json", "reason": f"it was served {path}, which tier T0 does not have"}
    assert {verdict["diagnoser"] for verdict in score["verdicts"]} == {"first-error", "honest"}


@pytest.mark.parametrize("key", ["salt", "label", "manifest_sha256", "chain_sha256"])
def test_a_reveal_that_was_altered_is_found(run: RunPaths, key: str) -> None:
    """Another label, salt, evidence or chain in the reveal does not open the commitment."""
    reveal_run(run)
    path = run.answers / "reveal.json"
    told = json.loads(path.read_text())
    told[key] = {**told[key], "component": "train0"} if key == "label" else "ab" * 32
    path.write_text(json.dumps(told))
    assert check_seal(run)["problems"]


def test_an_altered_case_is_not_revealed(run: RunPaths) -> None:
    """What does not fit its seal stays closed."""
    (run.answers / "first-error-T1.json").write_text("{}")
    with pytest.raises(ValueError, match=r"is not revealed: first-error-T1\.json: altered"):
        reveal_run(run)
