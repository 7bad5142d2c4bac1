import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from storage.truth import load_names
from tasks import person
from tasks.answers import read_answers
from tasks.person import drawn_tier, work_case
from tasks.score import score_run
from tasks.seal import seal_run
from tests.synthetic_case import seal_with_metrics
from tests.synthetic_job import make_run

ABOUT = {"consent": True, "years": 7, "seen_before": False}


class Desk:
    """A person who types these lines, each made of what was said before, and reads what comes."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.lines = iter(lines)
        self.heard: list[str] = []

    def ask(self, prompt: str) -> str:
        self.heard.append(prompt)
        line = next(self.lines, None)
        if line is None:
            raise EOFError
        return line

    def say(self, text: str) -> None:
        self.heard.append(text)


def form(component: str) -> list[str]:
    return ["answer", "maybe", "yes", "w-zzzz", component, "weights", "network-band", "80", "", "it was slow"]


def test_a_person_answers_like_everybody_else(tmp_path: Path) -> None:
    """What was asked for is metered and noted, the form takes no word outside the vocabularies, and the answer is scored."""
    run = seal_with_metrics(tmp_path)
    names = load_names(run)
    [log] = [path for path in json.loads((run.evidence / "manifest.json").read_text())["files"] if path.startswith("t0/")]
    reading = ["", "files", "nonsense '", "read", f"read {log} 2 3", f"tail {log} 1", f"grep ERROR {log}", "read t9/x"]
    reading += ["metrics", f"metric cpu_ratio {names['train1']} 5", "metric cpu_ratio", "case"]
    desk = Desk([*reading, *form(names["train1"])])
    answer = work_case(run, "ada", ABOUT, desk.ask, desk.say, "T3")
    assert answer["diagnosis"]["ranked"] == [
        {"component": names["train1"], "stage": "weights_update", "kind": "network-bandwidth"}
    ]
    assert (answer["diagnoser"], answer["isolation"], answer["person"]["years"]) == ("human-ada", "person", 7)
    assert answer["meter"]["lines"] > 100 and answer["diagnosis"]["confidence"] == 0.8
    assert any("is not a file of tier T3" in text for text in desk.heard) and any(
        "1 files, 3 lines" in text for text in desk.heard
    )
    notes = [json.loads(line)["call"] for line in (run.answers / "human-ada-T3.calls.jsonl").read_text().splitlines()]
    assert notes[:3] == ["case", "list_files", "read"] and notes[-1] == "submit"
    [verdict] = score_run(run)["verdicts"]
    assert verdict["outcome"] == "right"


def test_nobody_sees_a_case_or_its_like_twice(tmp_path: Path) -> None:
    """Once opened, also without an answer, neither the case nor another of its scenario is served again on any tier."""
    first, second = make_run(tmp_path), make_run(tmp_path)
    for run in (first, second):
        seal_run(run)
    answer = work_case(first, "bob", ABOUT, Desk(["files"]).ask, print, "T0")
    assert (answer["status"], answer["reason"]) == ("failed", "left without an answer")
    for run in (first, second):
        with pytest.raises(ValueError, match="this case is not for you"):
            work_case(run, "bob", ABOUT, Desk([]).ask, print, "T1")
    work_case(second, "eve", ABOUT, Desk([]).ask, print, "T1")
    assert [kept["diagnoser"] for kept in read_answers(second).kept] == ["human-eve"]


def test_an_open_case_is_nobodys(tmp_path: Path) -> None:
    """A scored case, a bad pseudonym and an unknown tier are refused before anything is shown."""
    run = make_run(tmp_path)
    seal_run(run)
    desk = Desk([])
    for pseudonym, tier in (("../x", "T0"), ("A", "T0"), ("ada", "T9")):
        with pytest.raises(ValueError, match=r"pseudonym|no tier"):
            work_case(run, pseudonym, ABOUT, desk.ask, desk.say, tier)
    score_run(run)
    with pytest.raises(ValueError, match="is open already"):
        work_case(run, "ada", ABOUT, desk.ask, desk.say)
    assert desk.heard == []


def test_time_runs_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock starts with the first thing served; when it is over, nothing is served and the answer is still taken."""
    run = make_run(tmp_path)
    seal_run(run)
    monkeypatch.setattr(person, "BUDGET_S", 0.0)
    desk = Desk(["files", "files", "answer", "no"])
    answer = work_case(run, "ada", ABOUT, desk.ask, desk.say, "T0")
    assert any("the time is over" in text for text in desk.heard)
    assert answer["meter"]["calls"] == 1 and answer["diagnosis"] == {**answer["diagnosis"], "fault": False, "abstain": False}


def test_tiers_are_drawn_evenly(tmp_path: Path) -> None:
    """Over many people each tier of a case comes up about as often, and the same person has the same one again."""
    run = make_run(tmp_path)
    seal_run(run)
    drawn = [drawn_tier(run, f"p{n}") for n in range(400)]
    assert all(70 <= drawn.count(tier) <= 130 for tier in ("T0", "T1", "T2", "T3"))
    assert drawn == [drawn_tier(run, f"p{n}") for n in range(400)]


def test_the_practice_case_at_a_real_terminal(tmp_path: Path) -> None:
    """Through a pseudo-terminal the command shows clock and meter, serves lines, takes the form and tells the truth."""
    leader, follower = pty.openpty()
    start = "import flows.command; flows.command.main()"
    process = subprocess.Popen(
        [sys.executable, "-c", start, "diagnose", "practice", "--human", "ada", "--tier", "T1"],
        stdin=follower, stdout=follower, stderr=follower, close_fds=True,
        env={**os.environ, "FAULTLINE_HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2]), "TERM": "dumb"},
    )  # fmt: skip
    os.close(follower)
    heard = ""

    def until(pattern: str) -> re.Match[str]:
        nonlocal heard
        while not (found := re.search(pattern, heard)):
            heard += os.read(leader, 65536).decode()
        heard = heard[found.end() :]
        return found

    def typed(line: str) -> None:
        os.write(leader, f"{line}\n".encode())

    until(r"\[30 min left, 0 files, 0 lines\] > ")
    typed("files")
    log = until(r"(t0/w-\w+\.log)\r")[1]
    until(r"\] > ")
    typed(f"tail {log} 2")
    until(r"\[30 min left, 1 files, 2 lines\] > ")
    for line, question in (("answer", "wrong"), ("no", "you named nothing; it was")):
        typed(line)
        until(question)
    assert process.wait(30) == 0
    os.close(leader)
