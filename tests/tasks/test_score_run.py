import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from storage.layout import RunPaths
from storage.truth import load_names, load_plan, save_salt
from tasks.answers import keep_answer, read_answers
from tasks.diagnose import diagnose_run
from tasks.score import SealBrokenError, score_run, standings
from tasks.seal import seal_run
from tests.synthetic_job import make_run


@pytest.fixture
def run(tmp_path: Path) -> RunPaths:
    """A sealed run with two answers."""
    paths = make_run(tmp_path)
    seal_run(paths)
    diagnose_run(paths, ["first-error", "random"], ["T1"])
    return paths


def edit(path: Path, change: Callable[[str], str]) -> None:
    """Alter a file although it is read-only."""
    text = path.read_text()
    path.chmod(0o644)
    path.write_text(change(text))
    assert path.read_text() != text


def test_score_names_components_as_the_job_does(run: RunPaths) -> None:
    """The verdicts are written with the answer mapped back, the label, and chance beside each number."""
    score = score_run(run)
    assert score == json.loads(run.score.read_text())
    first, guess = score["verdicts"]
    assert (first["diagnoser"], first["outcome"]) == ("first-error", "partial")
    assert first["top"] == {"component": "rollout0", "stage": "weights_update", "kind": "network-bandwidth"}
    assert first["grains"]["stage"]["ac1"] == 1 and first["grains"]["component"]["ac1"] == 0
    assert first["grains"]["component"]["chance"]["ac1"] == pytest.approx(1 / 9)
    assert guess["top"]["component"] in load_names(run)
    assert score["label"]["component"] == "train1"


def test_standings_read_several_scores_together(run: RunPaths, tmp_path: Path) -> None:
    """A faulty and a healthy case give one row a diagnoser, with the false blame of the one who always blames."""
    healthy = make_run(tmp_path, "noop")
    seal_run(healthy)
    diagnose_run(healthy, ["first-error", "random"], ["T1"])
    first, guess = standings([score_run(run), score_run(healthy)])
    assert (first["diagnoser"], first["n"], first["grains"]["stage"]["ac1"]["rate"]) == ("first-error", 2, 1.0)
    assert (first["false_blame"]["rate"], guess["false_blame"]["rate"]) == (0.0, 1.0)


TAMPER: dict[str, Callable[[RunPaths], object]] = {
    "altered": lambda run: edit(next((run.evidence / "t0").iterdir()), lambda text: text.replace("INFO", "INFp", 1)),
    "commitment does not fit": lambda run: edit(run.label, lambda text: text.replace("train1", "train0")),
    "the commitment does not": lambda run: edit(
        run.evidence / "manifest.json", lambda text: text.replace('"train"', '"reward"', 1)
    ),
    "commitment.*label and salt": lambda run: save_salt(run, "ab" * 32),
    "first-error-T1.json: altered": lambda run: edit(
        run.answers / "first-error-T1.json", lambda t: t.replace("network-delay", "noop")
    ),
    "random-T1.json: altered or missing": lambda run: (run.answers / "random-T1.json").unlink(),
    "better-T1.json: an answer outside": lambda run: shutil.copy(
        run.answers / "random-T1.json", run.answers / "better-T1.json"
    ),
    "random-T1.calls.jsonl: altered": lambda run: (run.answers / "random-T1.calls.jsonl").write_text(""),
    "chain.jsonl: broken": lambda run: edit(run.answers / "chain.jsonl", lambda text: text.splitlines(keepends=True)[1]),
    "not in the manifest": lambda run: add(run.evidence),
}


def add(evidence: Path) -> None:
    """One more file in the case."""
    evidence.chmod(0o755)
    (evidence / "hint.txt").write_text("x")


@pytest.mark.parametrize("reason", TAMPER)
def test_whatever_was_altered_is_not_scored(run: RunPaths, reason: str) -> None:
    """One changed byte in evidence, manifest, label, salt, answer or chain: no score, and the sentence says where."""
    TAMPER[reason](run)
    with pytest.raises(SealBrokenError, match=reason):
        score_run(run)
    assert not run.score.exists()


def test_answers_of_another_case_do_not_count(run: RunPaths, tmp_path: Path) -> None:
    """Answers carry the hash of their evidence, so that a copied folder of answers is refused."""
    other = make_run(tmp_path)
    seal_run(other)
    shutil.copytree(run.answers, other.answers)
    with pytest.raises(SealBrokenError, match="given on other evidence"):
        score_run(other)


def test_answers_after_the_score_are_marked(run: RunPaths) -> None:
    """An answer given after the score was written says so in its verdict."""
    score_run(run)
    diagnose_run(run, ["last-error"], ["T0"])
    marks = {verdict["diagnoser"]: verdict["after_score"] for verdict in score_run(run)["verdicts"]}
    assert marks == {"first-error": False, "random": False, "last-error": True}


def test_a_failure_of_ours_is_nobodys_score(run: RunPaths) -> None:
    """An attempt that our own reader broke is unknown in the score, and in no rate."""
    keep_answer(run, {**read_answers(run).kept[0], "diagnosis": None, "status": "unknown", "reason": "the reader ended"}, "")
    outcomes = {verdict["diagnoser"]: verdict["outcome"] for verdict in score_run(run)["verdicts"]}
    assert outcomes["first-error"] == "unknown"


def test_blaming_a_decoy_is_false_blame_and_told_apart(tmp_path: Path) -> None:
    """Of two cases without a fault one is a decoy: blaming both is 2 of 2 false blame, 1 of 1 of decoys."""
    runs = [make_run(tmp_path, "noop"), make_run(tmp_path, "network-delay")]
    runs[1].plan.write_text(json.dumps(load_plan(runs[1]) | {"decoy": True}))
    for paths in runs:
        seal_run(paths)
        diagnose_run(paths, ["prior-only"], ["T0"])
    scores = [score_run(paths) for paths in runs]
    assert [score["decoy"] for score in scores] == [False, True]
    [row] = standings(scores)
    told = [(row[name]["successes"], row[name]["n"]) for name in ("false_blame", "false_blame_decoys")]
    assert told == [(2, 2), (1, 1)] and row["grains"] == {}


def test_a_run_without_answers_scores_nothing(tmp_path: Path) -> None:
    """No answers is an empty list of verdicts, not an error."""
    paths = make_run(tmp_path)
    seal_run(paths)
    assert score_run(paths)["verdicts"] == []


def test_an_unsealed_run_is_refused(tmp_path: Path) -> None:
    """A run that was never sealed has no label to score against."""
    with pytest.raises(FileNotFoundError):
        score_run(make_run(tmp_path))
