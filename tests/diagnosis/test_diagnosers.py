import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from diagnosis.clues import template
from diagnosis.diagnosers import (
    error_code,
    first_error,
    guess,
    last_error,
    log_diff,
    peer_outlier,
    prior,
    stage_deadline,
    worst_z,
)
from diagnosis.reader import EvidenceReader, Sample
from diagnosis.vocabulary import read_vocabulary
from storage.layout import RunPaths
from storage.records import Cause, Diagnosis
from storage.truth import load_names
from tasks.seal import seal_run
from tests.diagnosis.small_job import Job, clock, vocabulary
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
    signs = ("signs", "signs_disk", "signs_link", "signs_process", "signs_words", "signs_work")
    names = (
        "chain",
        "clues",
        "columnwise",
        "deadlines",
        "gauges",
        "rcaeval",
        "reader",
        *signs,
        "story",
        "trouble",
        "vocabulary",
    )
    assert ours == {*(f"diagnosis.{name}" for name in names), "storage.records"}


def slow_stage() -> Job:
    """A job in which the sixth rollout takes three steps' time, by one worker, which then writes a line of its own."""
    job = Job(vocabulary())
    job.step(6, late={("w-a01", "generate"): 3.0})
    job.lines["w-c0"] = [line if line[0] < 6.2 else (line[0] + 3.0, *line[1:]) for line in job.lines["w-c0"]]
    job.say("w-a01", 8.0, "RuntimeError: something new about 42", "WARNING")
    job.finish(10.5)
    return job


def test_what_is_new_in_the_logs() -> None:
    """log-diff blames who wrote the first line of a kind that neither its past nor its peers know."""
    said = log_diff.diagnose(slow_stage(), vocabulary())
    assert said.ranked[0].component == "w-a01" and "something new" in said.reason
    healthy = Job(vocabulary())
    healthy.finish(6.5)
    assert not log_diff.diagnose(healthy, vocabulary()).fault


def test_a_template_forgets_what_varies() -> None:
    """Numbers, neutral names and ids are one; words are not."""
    assert template("read v3/shard of w-7362 request_id=8e22fcac1c894483") == template(
        "read v11/shard of w-ed80 request_id=d60e1f880435c734"
    )
    assert template("generate success, {'step': 3}") != template("save success, {'step': 3}")


def test_a_stage_over_its_deadline_is_known_before_it_ends() -> None:
    """stage-deadline names the stage, its role, and a moment before the stage was over; a healthy job has none."""
    said = stage_deadline.diagnose(slow_stage(), vocabulary())
    assert said.ranked[0].stage == "rollout" and said.ranked[0].component in ("w-a00", "w-a01")
    assert clock(6.1) < said.alarm < clock(9.0)
    healthy = Job(vocabulary())
    healthy.finish(6.5)
    assert not stage_deadline.diagnose(healthy, vocabulary()).fault


def test_peers_tell_who_changed() -> None:
    """peer-outlier blames the worker whose figure left its past alone; when all leave it together, nobody."""
    one, both = Job(vocabulary()), Job(vocabulary())
    for job in (one, both):
        for who in ("w-a00", "w-a01"):
            changed = who == "w-a01" or job is both
            job.gauge("cpu_ratio", who, [0.5, 0.52, 0.48, 0.51] * 4 + [9.0 if changed else 0.5] * 4)
        job.finish(6.5)
    assert peer_outlier.diagnose(one, vocabulary()).ranked[0].component == "w-a01"
    assert not peer_outlier.diagnose(both, vocabulary()).fault
    assert peer_outlier.diagnose(Job(vocabulary()), vocabulary()).abstain


class Compared(Job):
    """A job that comes with two healthy runs, whose memory lies between 100 and 110."""

    def healthy_runs(self) -> list[str]:
        return ["1", "2"]

    def query_metric(self, metric: str, subject: str = "", *_: object, run: str = "", **__: object) -> list[Sample]:
        own = super().query_metric(metric, subject)
        return own if not run else [replace(s, value=100.0 + i % 11 + (i == 3) * int(run)) for i, s in enumerate(own)]


def test_the_figure_furthest_from_health() -> None:
    """worst-z blames whose figure is further off than any healthy run's; one within what they show is nobody's fault."""
    job = Compared(vocabulary())
    job.finish(6.5)
    assert not worst_z.diagnose(job, vocabulary()).fault
    for who in ("w-a00", "w-a01"):
        job.gauge("rss_bytes", who, [100.0 + i % 11 for i in range(20)] + [900.0 if who == "w-a01" else 105.0])
    said = worst_z.diagnose(job, vocabulary())
    assert (said.ranked[0].component, said.ranked[0].kind) == ("w-a01", "memory-pressure")
    assert worst_z.diagnose(Job(vocabulary()), vocabulary()).abstain


def test_a_prior_reads_nothing(run: RunPaths) -> None:
    """prior-only gives the same answer whatever happened, without a call."""
    reader = EvidenceReader(run.evidence, "T1")
    words = read_vocabulary(json.loads((run.evidence / "manifest.json").read_text()))
    said = prior.diagnose(reader, words)
    assert reader.meter.calls == 0 and len(set(said.ranked)) == len(said.ranked)
    assert words.roles[said.ranked[0].component] == "train"
