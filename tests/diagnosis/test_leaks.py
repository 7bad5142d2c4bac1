"""What a case must not tell besides what the job itself shows. docs/benchmark.md says which test is which of the ten."""

import base64
import bz2
import gzip
import importlib
import json
import random
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binomtest

from diagnosis.reader import EvidenceReader
from diagnosis.run import MODULES
from diagnosis.sandbox import attempt
from diagnosis.sanitise import FORBIDDEN
from diagnosis.vocabulary import TIERS, read_vocabulary
from storage.layout import RunPaths
from storage.truth import load_names
from tasks import seal
from tasks.seal import seal_run
from tests.canary import every_byte, spellings
from tests.shape import right_by_shape, shape
from tests.synthetic_case import end_well, healthy_rows, row, seal_with_metrics, with_metrics
from tests.synthetic_job import CANARY, make_run, write_truth

SEEDS = (1, 2)


def test_a_canary_of_the_truth_is_in_no_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A word that stands in plan, history, lab logs, environment, metric names and the job's own lines never comes out."""
    monkeypatch.setenv("FAULTLINE_FLOW", CANARY)
    paths = with_metrics(make_run(tmp_path, train1=f"2026-10-10 12:00:09.000 INFO train1: {CANARY} fault\n"), healthy_rows())
    with_metrics(paths, [row(f"{CANARY}7", "rss_bytes", 1.0, 5.0)])
    history = paths.history.read_text().replace('"f1"', f'"{CANARY}"')
    paths.history.write_text(history)
    paths.plan.write_text(paths.plan.read_text().replace('"f1"', f'"{CANARY}"').replace("weight-sync-link", f"{CANARY}-link"))
    (paths.lab_logs / "injector.log").write_text(CANARY)
    end_well(paths, 17)
    seal_run(paths)
    told = every_byte(paths.evidence)
    assert [how for how, spelled in spellings(CANARY).items() if spelled in told] == []
    assert CANARY.encode() in paths.plan.read_bytes()


def test_the_search_finds_a_canary_in_every_spelling() -> None:
    """Each way of hiding that the test above looks for is one that it would see."""
    inside = f"some {CANARY} text".encode()
    seen = [inside, inside[::-1], inside.hex().encode(), *(base64.b64encode(b"x" * n + inside) for n in range(3))]
    for told in seen:
        assert any(spelled in told for spelled in spellings(CANARY).values()), told
    for packed in (gzip.compress(inside), zlib.compress(inside), bz2.compress(inside)):
        assert not packed.isascii()


def test_no_word_of_the_experimenter_and_no_packed_byte_in_any_tier(tmp_path: Path) -> None:
    """Every byte of a case is text, and no tier, healthy run, metric or path holds a forbidden word."""
    paths = seal_with_metrics(tmp_path, train1="2026-10-10 12:00:09.000 ERROR train1: prefect flow run injected\n")
    manifest = json.loads((paths.evidence / "manifest.json").read_text())
    manifest["vocabulary"]["kinds"] = []
    # The closed vocabulary is public and names kinds of faults; nothing else may.
    told = every_byte(paths.evidence).replace((paths.evidence / "manifest.json").read_bytes(), json.dumps(manifest).encode())
    assert FORBIDDEN.search(told.decode("ascii")) is None


def test_the_evidence_follows_from_the_job_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Placebo: a run in which something of no size was done and one in which nothing was give the same case, byte for byte."""
    monkeypatch.setattr(seal.secrets, "randbits", lambda _bits: 5)
    first = with_metrics(make_run(tmp_path / "a", "noop"), healthy_rows())
    second = RunPaths(tmp_path / "b" / first.run_id)
    shutil.copytree(first.root, second.root)
    write_truth(second, "network-delay")
    for paths in (first, second):
        end_well(paths, 17)
        seal_run(paths)
    cases = [{p.relative_to(r.evidence): p.read_bytes() for p in r.evidence.rglob("*") if p.is_file()} for r in (first, second)]
    differing = [str(path) for path in cases[0] if cases[0][path] != cases[1][path]]
    assert cases[0].keys() == cases[1].keys() and differing == ["commitment.txt"]


def in_own_names(paths: RunPaths, name: str, tier: str) -> Any:
    """A diagnoser's answer with the job's own component names, its clock readings left out."""
    module = importlib.import_module(f"diagnosis.diagnosers.{MODULES[name]}")
    vocabulary = read_vocabulary(json.loads((paths.evidence / "manifest.json").read_text()))
    said = module.diagnose(EvidenceReader(paths.evidence, tier), vocabulary)
    own = {neutral: component for component, neutral in load_names(paths).items()}
    ranked = [(own[cause.component], cause.stage, cause.kind) for cause in said.ranked[:1]]
    return said.fault, said.abstain, ranked


def test_names_and_clock_change_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sealed twice, with other names and another clock, a case has the same answers of every diagnoser on every tier."""
    answers = []
    for seed in SEEDS:
        monkeypatch.setattr(seal.secrets, "randbits", lambda _bits, seed=seed: seed)
        paths = seal_with_metrics(tmp_path / str(seed))
        names = sorted(set(MODULES) - {"random"})
        answers.append({(name, tier): in_own_names(paths, name, tier) for name in names for tier in TIERS})
    assert answers[0] == answers[1]


def test_the_shape_of_a_case_tells_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A classifier that sees everything but the contents is at chance at telling a fault from none; a planted hint it finds."""
    draw = random.Random(3)
    monkeypatch.setattr(seal.secrets, "randbits", draw.getrandbits)  # the same names and clocks each time: no luck in it
    kinds = [draw.choice(("noop", "network-bandwidth")) for _ in range(24)]
    cases = []
    for kind in kinds:
        paths = make_run(tmp_path, kind)
        seal_run(paths)
        cases.append(paths.evidence)
    shapes = [shape(case) for case in cases]
    share = max(kinds.count(kind) for kind in set(kinds)) / len(kinds)
    low, high = binomtest(right_by_shape(shapes, kinds), len(kinds)).proportion_ci(0.99, "exact")
    assert low <= max(share, 0.5) and high >= 1 - max(share, 0.5)
    hinted = [[*figures, 10.0 * (kind != "noop")] for figures, kind in zip(shapes, kinds, strict=True)]
    assert binomtest(right_by_shape(hinted, kinds), len(kinds), 0.5).pvalue < 0.01


ESCAPES: dict[str, Callable[[RunPaths], str]] = {
    "the label": lambda run: str(run.label),
    "its relative path": lambda run: "t0/../../truth/label.json",
    "another process": lambda run: "/proc/1/environ",
    "the history of the code": lambda run: str(Path(seal.__file__).parents[1] / ".git/HEAD"),
}


def test_an_attempt_to_escape_is_denied_and_noted(tmp_path: Path) -> None:
    """A program that asks for truth, processes or history gets nothing, and each attempt stands in the notes of its answer."""
    paths = make_run(tmp_path)
    seal_run(paths)
    wanted = [path(paths) for path in ESCAPES.values()]
    asks = "".join(
        f"echo '{json.dumps({'call': 'read', 'path': path})}'; read -r reply; echo \"$reply\" >&2\n" for path in wanted
    )
    script = tmp_path / "escape"
    script.write_text(f"#!/bin/bash\n{asks}echo '{json.dumps({'call': 'submit', 'answer': {'fault': False, 'ranked': []}})}'\n")
    script.chmod(0o755)
    came = attempt(script, paths.evidence, "T1")
    noted = [json.loads(line) for line in came.calls.splitlines()]
    assert [call["path"] for call in noted if call["call"] == "read"] == wanted
    assert all("is not a file of tier T1" in call["error"] for call in noted if call["call"] == "read")
    assert came.meter["files"] == came.meter["bytes"] == 0
