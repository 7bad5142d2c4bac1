import json
from pathlib import Path

import pytest

from diagnosis.environment import VARIABLE
from diagnosis.run import ASKED_ON, MODULES, RCAEVAL
from storage.layout import RunPaths
from tasks.diagnose import diagnose_run
from tasks.seal import seal_run
from tests.synthetic_job import make_run


@pytest.fixture
def run(tmp_path: Path) -> RunPaths:
    """A sealed run."""
    paths = make_run(tmp_path)
    seal_run(paths)
    return paths


def test_every_diagnoser_answers_on_its_tiers(run: RunPaths) -> None:
    """One answer for each, written with its effort, its isolation and the hash of the evidence it was given on."""
    answers = diagnose_run(run)
    assert {(a["diagnoser"], a["tier"]) for a in answers} == {(name, tier) for name in MODULES for tier in ASKED_ON[name]}
    for answer in answers:
        kept = json.loads((run.answers / f"{answer['diagnoser']}-{answer['tier']}.json").read_text())
        assert kept == answer
        assert kept["diagnosis"] and kept["isolation"] == "namespaces" and not kept["after_score"]
    effort = {(a["diagnoser"], a["tier"]): a["meter"]["lines"] for a in answers}
    assert effort["random", "T0"] == 0 < effort["first-error", "T0"] < effort["first-error", "T1"]


def test_what_needs_an_environment_says_so_without_it(run: RunPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for where its environment is not, a method of RCAEval is refused with how to make that; nothing is written."""
    monkeypatch.setenv(VARIABLE, "/nowhere")
    for name in RCAEVAL:
        with pytest.raises(
            ValueError, match=f"{name} needs an environment of its own: /nowhere is none; make it with `make rcaeval`"
        ):
            diagnose_run(run, ["random", name], ["T0"])
    assert not run.answers.exists()


@pytest.mark.parametrize(
    ("names", "tiers", "reason"),
    [(["oracle"], ["T0"], "no diagnoser 'oracle'; there are random"), (["random"], ["T9"], "no tier 'T9'; there are T0, T1,")],
)
def test_unknown_words_are_refused_before_anything_runs(run: RunPaths, names: list[str], tiers: list[str], reason: str) -> None:
    """A wrong diagnoser or tier is named with the allowed ones, and no answer is written."""
    with pytest.raises(ValueError, match=reason):
        diagnose_run(run, names, tiers)
    assert not run.answers.exists()


def test_altered_evidence_is_not_diagnosed(run: RunPaths) -> None:
    """One flipped byte in a log, and nobody is asked."""
    [log] = (run.evidence / "t0").iterdir()
    log.chmod(0o644)
    log.write_bytes(log.read_bytes()[:-2] + b"X\n")
    with pytest.raises(ValueError, match="altered"):
        diagnose_run(run, ["random"], ["T0"])
