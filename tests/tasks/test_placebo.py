"""Leaks that only real runs show: a fault of no size must look like none, and a word of the truth must not come through."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binomtest

from diagnosis.sanitise import FORBIDDEN
from storage.truth import load_label, load_plan
from tasks.collect import collect
from tasks.experiment import attempt
from tasks.outcome import outcome_of
from tasks.plan import load_scenario, make_plan
from tasks.seal import seal_run
from tests.canary import every_byte, spellings
from tests.shape import right_by_shape, shape, words
from tests.tasks.conftest import Faultline

pytestmark = [pytest.mark.job, pytest.mark.long, pytest.mark.timeout(3600)]

#: How long another run may keep the machine.
WAIT_S = 3000.0
#: The command, but it waits for the machine, shorter than the test waits for it; whoever looks seldom does not get it.
PATIENT = """
import tasks.experiment as experiment
import tasks.machine_lock as lock
lock.POLL_S = 0.02
at_once = experiment.run_experiment
experiment.run_experiment = lambda plan, progress: at_once(plan, progress, 800.0)
"""
PROCESS = {"role": "train", "rank": "draw"}
LINK = {"link": {"src": {"role": "controller"}, "dst": {"role": "rollout", "rank": "draw"}, "purpose": "rpc"}}
#: Kinds with as little as they can: a limit a terabyte away, one hundredth of a core, a tenth of a millisecond.
PLACEBOS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "memory-pressure": (PROCESS, {"headroom_mib": 1_000_000}),
    "cpu-contention": (PROCESS, {"share_percent": 1}),
    "network-delay": (LINK, {"delay_ms": 0.1}),
}
SEEDS = (1, 2)


@dataclass(frozen=True)
class Sealed:
    """A case and whether something (of no size) was done in it."""

    kind: str
    done: bool
    folder: Path


def written(folder: Path, name: str, kind: str, target: dict[str, Any], params: dict[str, Any], fault: str = "f1") -> Path:
    """A short scenario's file."""
    trigger = {"step": [1, 2], "stage": "rollout", "when": "enter"}
    spec = {"id": fault, "kind": kind, "target": target, "trigger": trigger, "params": params}
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps({"name": name, "title": name, "job": {"steps": 4}, "faults": [spec]}))
    return path


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[Sealed]:
    """Each placebo and its control at each seed, run for real and sealed without healthy runs beside them."""
    folder = tmp_path_factory.mktemp("placebo")
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAULTLINE_HOME", str(folder / "home"))
        for kind, (target, params) in PLACEBOS.items():
            scenario = load_scenario(written(folder, f"placebo-{kind}", kind, target, params))
            for seed in SEEDS:
                for arm in ("legacy", "control"):
                    paths = attempt(make_plan(scenario, arm, seed), lambda _: None, WAIT_S)
                    collect(paths)
                    outcome = outcome_of(paths)
                    assert outcome["valid"] and outcome["impact"] == "none", (kind, arm, seed, outcome)
                    seal_run(paths, [])
                    assert load_label(paths).fault == (arm == "legacy") == (load_plan(paths)["faults"][0]["kind"] == kind)
                    found.append(Sealed(kind, arm == "legacy", paths.evidence))
    return found


def test_the_shape_of_a_placebo_is_that_of_nothing(cases: list[Sealed]) -> None:
    """Who sees files, times, columns and counts guesses no better than by a coin whether something was done."""
    answers = [str(case.done) for case in cases]
    shapes = [shape(case.folder) for case in cases]
    assert len({len(figures) for figures in shapes}) == 1
    assert binomtest(right_by_shape(shapes, answers), len(cases), 0.5, "greater").pvalue > 0.01


def test_no_word_parts_placebos_from_controls(cases: list[Sealed]) -> None:
    """No path, log line or name of a series (numbers apart) is in all placebos, or all of a kind, and in no control; or in
    all controls and in no placebo.
    """
    calm = [words(case.folder) for case in cases if not case.done]
    done = {kind: [words(case.folder) for case in cases if case.done and case.kind == kind] for kind in PLACEBOS}
    assert min(map(len, calm)) > 100
    assert {kind: parting(told, calm) for kind, told in done.items()} == {kind: set() for kind in PLACEBOS}
    assert parting(calm, [one for told in done.values() for one in told]) == set()
    assert parting([told | {"hint"} for told in calm], calm) == {"hint"}, "a word that does part them is seen"


def parting(those: list[set[str]], others: list[set[str]]) -> set[str]:
    """What stands in each of those, and in none of the others."""
    return set.intersection(*those) - set.union(*others)


@pytest.mark.parametrize("arm", ["legacy", "control"])
def test_a_canary_of_a_real_run_is_in_no_byte(faultline: Faultline, scratch: Path, arm: str) -> None:
    """A word in scenario, file, fault, environment and command line of a whole run comes out in no spelling, packed or not."""
    word = f"zebra{os.urandom(4).hex()}"
    file = written(scratch, f"{word}-scenario", "network-delay", LINK, {"delay_ms": 20}, fault=word)
    environment = ("env", f"{word.upper()}={word}", f"STAGE_NOTE={word}")
    run = faultline("run", str(file), "--arm", arm, "--json", before=PATIENT, within=environment)
    assert run.code == 0 and run.paths is not None, run.error
    told = every_byte(run.paths.evidence)
    assert [how for how, spelled in spellings(word).items() if spelled in told.lower() or spelled in told] == []
    assert word.encode() in run.paths.plan.read_bytes() and word.encode() in run.paths.history.read_bytes()
    assert told.isascii(), "packed bytes would hide it"
    logs = [line for path in run.paths.evidence.rglob("*.log") for line in path.read_text().splitlines()]
    assert len(logs) > 50 and not any(FORBIDDEN.search(line) for line in logs)
