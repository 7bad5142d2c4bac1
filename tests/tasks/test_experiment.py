"""Whole runs in both kinds of place, by the command, as an ordinary user: what they promise and what they leave."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from injection.strays import PARENTS, PREFIX
from storage import schemas, truth
from storage.layout import RunPaths
from storage.manifest import load_manifest
from storage.reader import read_table
from storage.seal import verify_seal
from tasks.plan import load_scenario, make_plan
from tests.conftest import ORDINARY_UID

pytestmark = [pytest.mark.job, pytest.mark.timeout(1200)]

PATIENCE_S = 900.0
LAB = """
import json, sys
from pathlib import Path
from tasks.experiment import run_experiment
try:
    print(json.dumps(run_experiment(json.loads(Path(sys.argv[1]).read_text()), wait_s=600)))
except Exception as error:
    from flows.command import sentence
    sys.exit(sentence(error))
"""


Finish = Callable[..., tuple[int, dict, str]]


@pytest.fixture
def finish(scratch: Path, ordinary_user: Callable) -> Iterator[Finish]:
    """Run a plan to its end as an ordinary user -> exit code, outcome, error; afterwards nothing of it may be left."""

    def run(plan: dict, **env: str) -> tuple[int, dict, str]:
        (scratch / "plan.json").write_text(json.dumps(plan))
        lab = ordinary_user([sys.executable, "-c", LAB, str(scratch / "plan.json")], **env)
        out, errors = lab.communicate(timeout=PATIENCE_S)
        return lab.returncode, json.loads(out) if out else {}, errors.strip()

    before = folders()
    yield run
    assert processes_with(f"HOME={scratch / 'home'}") == []
    assert folders() - before == set()
    assert [path.name for path in scratch.glob("home/lab/journal/*")] == []


def folders() -> set[Path]:
    """Folders of places that belong to the ordinary user."""
    found = (path for parent in PARENTS for path in Path(parent).glob(f"{PREFIX}*"))
    return {
        path for path in found if path.exists() and path.stat().st_uid == (ORDINARY_UID if os.geteuid() == 0 else os.geteuid())
    }


def processes_with(word: str) -> list[str]:
    """Processes of the machine with such an entry in their environment."""
    found = []
    for process in psutil.process_iter():
        with suppress(OSError, psutil.Error):
            if word.encode() in Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0"):
                found.append(" ".join(process.cmdline()))
    return found


def planned(scenario: str | Path, arm: str, place: str, **job: object) -> dict:
    """A plan; ``job`` overrides its job's configuration."""
    plan = make_plan(load_scenario(scenario), arm, 17, place=place)
    return {**plan, "job": {**plan["job"], **job}}


@pytest.mark.parametrize(
    ("scenario", "arm", "place"),
    [
        ("worker-kill", "legacy", "virtual-cluster"),
        ("weight-sync-link", "legacy", "plain-host"),
        ("no-fault", "control", "virtual-cluster"),
    ],
)
def test_a_run_keeps_its_promises(scenario: str, arm: str, place: str, finish: Finish, scratch: Path) -> None:
    """The fault was real, proved and undone, the expected error came, evidence is sealed, and every table reads."""
    code, outcome, errors = finish(planned(scenario, arm, place))
    assert (code, errors) == (0, "")
    assert outcome["valid"], outcome["invalid_because"]
    paths = RunPaths(scratch / "home" / "lab" / "runs" / outcome["run_id"])
    if arm == "control":
        assert outcome["final_error"] is None and outcome["steps_done"] == outcome["steps_planned"] == 12
    else:
        assert outcome["expected"]["came_true"]
    told = [line["what"] for line in truth.load_history(paths) if line["what"] != "event"]
    assert told == ["armed", "fired", "applied", "verified", "reverted", "gone"]
    assert load_manifest(paths).state == "completed"
    assert verify_seal(paths) == []
    for name in ("metrics", "logs", "events"):
        rows, problems = read_table(paths.table(name), schemas.TABLES[name])
        assert problems == [] and rows.num_rows > 50
    assert json.loads(paths.score.read_text())["verdicts"]
