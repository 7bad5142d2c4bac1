import json
import re
from pathlib import Path

import pytest

from diagnosis.diagnosers import error_code, first_error, guess, last_error
from diagnosis.reader import EvidenceReader
from diagnosis.vocabulary import read_vocabulary
from storage.layout import RunPaths
from storage.records import Cause, Diagnosis
from storage.truth import load_names
from tasks.seal import seal_run
from tests.synthetic_job import make_run


def ask(paths: RunPaths, diagnoser, tier: str) -> Diagnosis:
    """The diagnoser's answer on a sealed run, in the job's own names."""
    vocabulary = read_vocabulary(json.loads((paths.evidence / "manifest.json").read_text()))
    said = diagnoser.diagnose(EvidenceReader(paths.evidence, tier), vocabulary)
    own = {neutral: name for name, neutral in load_names(paths).items()}
    ranked = tuple(Cause(own[cause.component], cause.stage, cause.kind) for cause in said.ranked)
    return Diagnosis(said.fault, ranked, said.abstain, said.confidence, said.chain, said.reason)


def sealed(tmp_path: Path, kind: str = "network-bandwidth", **lines: str) -> RunPaths:
    paths = make_run(tmp_path, kind, **lines)
    seal_run(paths)
    return paths


@pytest.fixture
def run(tmp_path: Path) -> RunPaths:
    """A sealed run in which train1 is at fault and the rollout workers complain."""
    return sealed(tmp_path)


def test_each_rule_blames_where_the_error_shows(run: RunPaths) -> None:
    """On a cross-stage case the simple rules name a victim, each in its own way, and the stage of the complaint."""
    wanted = {
        (last_error, "T0"): "rollout1",
        (first_error, "T0"): "rollout1",
        (first_error, "T1"): "rollout0",
        (error_code, "T0"): "rollout1",
    }
    for (diagnoser, tier), victim in wanted.items():
        said = ask(run, diagnoser, tier)
        assert said.ranked[0] == Cause(victim, "weights_update", "network-bandwidth"), diagnoser.__name__


def test_last_error_falls_for_masking(tmp_path: Path) -> None:
    """An error of the cleanup hides the first one from who reads the end only; first-error is not misled."""
    masking = "2026-10-10 12:00:40.000 ERROR controller: Error stopping job 7f3a: Request timeout, http://10.98.0.102:8081/\n"
    paths = sealed(tmp_path, controller=masking)
    assert ask(paths, last_error, "T0").ranked[0].stage == "cleanup"
    assert ask(paths, last_error, "T0").ranked[0].component == "scheduler"
    assert ask(paths, first_error, "T0").ranked[0].stage == "weights_update"


def test_words_suggest_the_kind(tmp_path: Path) -> None:
    """A worker's allocation error is read as memory pressure, a refused connection as a dead process."""
    oom = "2026-10-10 12:00:02.500 ERROR rollout1: RuntimeError: DefaultCPUAllocator: can't allocate memory\n"
    assert ask(sealed(tmp_path, rollout1=oom), first_error, "T1").ranked[0] == Cause("rollout1", "rollout", "memory-pressure")
    dead = "2026-10-10 12:00:03.500 ERROR controller: Connection refused by 10.98.0.106:7001\n"
    assert ask(sealed(tmp_path, controller=dead), first_error, "T0").ranked[0] == Cause("train1", "train", "process-kill")


def test_a_batch_in_memory_is_no_memory_error(tmp_path: Path) -> None:
    """ "DistributedBatchMemoryError" contains "MemoryError" and has nothing to do with memory pressure."""
    text = "2026-10-10 12:00:02.500 ERROR controller: FrameworkError: DistributedBatchMemoryError: Batch size mismatch\n"
    [first, *_] = ask(sealed(tmp_path, "noop", controller=text), error_code, "T0").ranked
    assert first == Cause("controller", "train", "process-kill")


def test_healthy_run_blames_nobody(tmp_path: Path) -> None:
    """Without an error the rules say so: no fault, or no answer."""
    paths = sealed(tmp_path, "noop")
    assert not ask(paths, last_error, "T1").fault
    assert not ask(paths, first_error, "T1").fault
    assert ask(paths, error_code, "T1").abstain


def test_error_code_needs_both_codes_on_one_line(tmp_path: Path) -> None:
    """Type and sub-error on different lines, or beyond the window, are no code."""
    far = "2026-10-10 12:00:02.500 ERROR rollout1: InferenceEngineError: RolloutError: x\n"
    lines = (
        far + "2026-10-10 12:00:02.600 ERROR rollout1: TrainEngineError\n2026-10-10 12:00:02.700 ERROR rollout1: SaveError\n"
    )
    near = sealed(tmp_path, "noop", rollout1=lines)
    assert ask(near, error_code, "T1").ranked[0].stage == "rollout"
    beyond = sealed(tmp_path, "noop", rollout1=far + "2026-10-10 12:00:03.000 INFO rollout1: ok\n" * error_code.WINDOW_LINES)
    assert ask(beyond, error_code, "T1").abstain


def test_guess_is_uniform_and_repeatable(run: RunPaths) -> None:
    """The same case gives the same guess; it opens nothing, and its causes are all different."""
    first, again = ask(run, guess, "T1"), ask(run, guess, "T1")
    assert first == again
    assert len(set(first.ranked)) == guess.RANKED


def test_permuted_names_permute_the_answers(tmp_path: Path) -> None:
    """Two sealings of the same logs differ in names alone, and so do the answers of the rules."""
    cases = [sealed(tmp_path) for _ in range(2)]
    for diagnoser in (last_error, first_error, error_code):
        answers = [ask(paths, diagnoser, "T1") for paths in cases]
        tops = [answer.ranked[0] for answer in answers]
        assert tops[0].stage == tops[1].stage and tops[0].component == tops[1].component


def test_diagnosers_import_nothing_of_the_truth() -> None:
    """Their source names no module of ours but the reader's side."""
    folder = Path(guess.__file__).parent
    imports = re.findall(r"^(?:from|import) (\S+)", "\n".join(f.read_text() for f in folder.glob("*.py")), re.MULTILINE)
    ours = {name for name in imports if name.split(".")[0] in ("diagnosis", "storage", "tasks", "rlhf", "injection")}
    assert ours == {"diagnosis.clues", "diagnosis.reader", "diagnosis.vocabulary", "storage.records"}
