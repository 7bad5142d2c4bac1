import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from diagnosis.vocabulary import read_vocabulary
from flows.answer_by_hand import answer_of_form, form_of
from storage.layout import RunPaths, runs_dir
from storage.truth import load_names
from tasks.answers import read_answers
from tasks.score import score_run
from tasks.seal import seal_run
from tests.synthetic_job import make_run

WORDS = {"components": ["w-0001", "w-0002"], "stages": ["train", "rollout"], "kinds": ["process-kill"]}


def test_the_form_knows_the_words_of_the_case_alone() -> None:
    """Each field is a choice of the case's own words; what a person chose becomes an answer as every diagnoser gives it."""
    form = form_of(WORDS)
    cause = {"component": "w-0002", "stage": "train", "kind": "process-kill"}
    said = form(something_is_wrong="yes", sure_percent=180, reason="it stopped", **cause)
    assert answer_of_form(said) == {"fault": True, "ranked": [cause], "confidence": 1.0, "reason": "it stopped"}
    unsure = form(something_is_wrong="cannot tell", **cause)
    assert answer_of_form(unsure) == {"fault": False, "ranked": [], "abstain": True, "reason": ""}
    with pytest.raises(ValidationError):
        form(something_is_wrong="yes", **{**cause, "component": "train1"})


PROGRAM = """
import asyncio, json, sys, threading, time
from prefect.client.orchestration import get_client
from prefect.testing.utilities import prefect_test_harness
from flows.answer_by_hand import answer_by_hand

run_id, component = sys.argv[1:]

async def fill(ended):
    async with get_client() as client:
        while not ended.is_set():
            for flow_run in await client.read_flow_runs():
                if flow_run.state_name == "Paused":
                    cause = {"component": component, "stage": "weights_update", "kind": "network-bandwidth"}
                    said = {"something_is_wrong": "yes", **cause}
                    bad = await client.resume_flow_run(flow_run.id, run_input={**said, "component": "train1"})
                    print(bad.status.value, flush=True)
                    await client.resume_flow_run(flow_run.id, run_input=said)
                    print(sorted(a.key for a in await client.read_artifacts()), flush=True)
                    return
            await asyncio.sleep(0.2)

with prefect_test_harness(server_startup_timeout=120):
    ended = threading.Event()
    person = threading.Thread(target=lambda: asyncio.run(fill(ended)))
    person.start()
    try:
        print(json.dumps(answer_by_hand(run_id, "ada", 9, poll_s=1)), flush=True)
    finally:
        ended.set()
        person.join()
"""


@pytest.mark.long
@pytest.mark.job
def test_a_flow_waits_for_a_person(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a real server: logs are pages, a word outside the vocabulary is refused, the form's answer is kept and scored."""
    monkeypatch.setenv("FAULTLINE_HOME", str(scratch))
    run = make_run(runs_dir())
    seal_run(run)
    component = load_names(run)["train1"]
    env = {
        **os.environ,
        "FAULTLINE_HOME": str(scratch),
        "PREFECT_HOME": str(scratch / "prefect"),
        "PREFECT_LOGGING_LEVEL": "ERROR",
    }
    done = subprocess.run([sys.executable, "-c", PROGRAM, run.run_id, component], env=env, capture_output=True, text=True,
                          timeout=240, check=False, cwd=Path(__file__).parents[2])  # fmt: skip
    told = done.stdout.splitlines()
    assert done.returncode == 0 and told[0] == "REJECT", done.stderr[-3000:]
    pages = json.loads(told[1].replace("'", '"'))
    assert len(pages) == len(read_vocabulary(json.loads((run.evidence / "manifest.json").read_text())).components)
    assert json.loads(told[2]) == {"run_id": run.run_id, "diagnoser": "human-ada", "status": "answered"}
    [answer] = read_answers(RunPaths(run.root)).kept
    assert answer["meter"]["files"] == len(pages) and answer["isolation"] == "person"
    [verdict] = score_run(run)["verdicts"]
    assert verdict["outcome"] == "right"
