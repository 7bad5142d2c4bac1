from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diagnosis.columnwise import Asked, causes_of, diagnose_by, question
from diagnosis.deadlines import first_alarm
from diagnosis.diagnosers import baro_two_sided
from diagnosis.diagnosers.baro_two_sided import ranking
from diagnosis.services import FIGURES
from diagnosis.story import Story
from tests.diagnosis.small_job import Job, clock, vocabulary

#: A little restlessness, which every column needs to be looked at.
NOISE = [0.5, 0.52, 0.48, 0.51]


def hung_job(*, falls: bool = True, fails_s: float = 7.0) -> Job:
    """Six good steps at four samples a second, then w-a01's share of a core falls (or rises) until an error."""
    job = Job(vocabulary())
    for who in job.words.components:
        job.gauge("cpu_ratio", who, [*NOISE * 6, *([0.0, 0.01] if falls else [9.0, 9.1]) * 8] if who == "w-a01" else NOISE * 10)
    job.say("w-c0", 6.0, "start to update weight, step: 6, epoch: 0")
    job.say("w-c0", 6.1, "start to rollout, step: 6, epoch: 0")
    job.say("w-c0", fails_s, "InferenceWorkerError: generate gave up", "ERROR")
    job.finish(fails_s + 1.0)
    return job


def asked_of(job: Job, case_id: str = "case") -> Asked:
    words = replace(vocabulary(), case_id=case_id)
    story = Story(job, words)
    alarm_s = first_alarm(story, [])
    assert alarm_s
    return question(job, words, story, {}, alarm_s)


def test_a_fall_is_seen_by_two_sides_alone() -> None:
    """Who fell silent comes first by |z|; by z, the published way, last. Who rose is first by both."""
    fell, rose = asked_of(hung_job()), asked_of(hung_job(falls=False))
    assert ranking(fell)[0] == "w-a01_cpu" == ranking(fell, float)[-1]
    assert ranking(rose)[0] == "w-a01_cpu" == ranking(rose, float)[0]


def test_a_stall_is_seen() -> None:
    """Who fell silent for good is constant since the alarm: the published way leaves it out, ours blames it."""
    stalled = asked_of(hung_job())
    column = stalled.columns["w-a01_cpu"]
    column[stalled.row :] = [0.0] * (len(column) - stalled.row)
    assert ranking(stalled)[0] == "w-a01_cpu"
    assert "w-a01_cpu" not in ranking(stalled, float, still=False)


def test_the_answer_is_in_the_labs_words() -> None:
    """Component of the column, stage in force at the alarm, kind by the figure, and the alarm itself."""
    said = baro_two_sided.diagnose(hung_job(), vocabulary())
    first = said.ranked[0]
    assert (first.component, first.stage, first.kind) == ("w-a01", "rollout", "cpu-contention")
    assert said.fault and said.alarm == clock(7.0)


def test_an_error_that_ends_the_job_is_of_the_stage_before() -> None:
    """Where the first alarm is the job's own ending, the stage is the one that was ended; two rows are explained."""
    job = hung_job()
    job.lines["w-c0"] = [line for line in job.lines["w-c0"] if line[1] != "ERROR" and "Stopping" not in line[2]]
    job.fail(7.0)
    said = baro_two_sided.diagnose(job, vocabulary())
    assert (said.ranked[0].component, said.ranked[0].stage) == ("w-a01", "rollout") and "2 rows since" in said.reason


def test_too_few_rows_are_no_answer() -> None:
    """Where everything lies in two rows there is no before, and it abstains."""
    job = Job(vocabulary(), steps=0)
    job.gauge("cpu_ratio", "w-a01", [0.5, 9.0], every_s=10.0)
    job.say("w-c0", 1.0, "start to rollout, step: 0, epoch: 0")
    job.say("w-c0", 12.0, "InferenceWorkerError: generate gave up", "ERROR")
    job.finish(13.0)
    assert baro_two_sided.diagnose(job, vocabulary()).abstain


def test_without_an_alarm_nothing_is_wrong() -> None:
    """However far a figure is off: these methods are asked who, and not whether."""
    job = hung_job()
    job.lines["w-c0"] = [line for line in job.lines["w-c0"] if line[1] != "ERROR" and line[0] < 6.0]
    job.finish(6.2)
    assert not baro_two_sided.diagnose(job, vocabulary()).fault
    assert baro_two_sided.diagnose(Job(vocabulary()), vocabulary()).abstain


def test_the_order_of_columns_is_the_cases() -> None:
    """The same case gives the same order, another one another: who answers in the order that was given gains nothing by it."""
    orders = [list(asked_of(hung_job(), case).columns) for case in ("a", "a", "b")]
    assert orders[0] == orders[1] != orders[2] and sorted(orders[0]) == sorted(orders[2])


def test_what_a_method_raises_is_raised() -> None:
    """A method that cannot rank makes no answer."""

    def broken(asked: Asked) -> list[str]:
        raise ArithmeticError("singular")

    with pytest.raises(ArithmeticError):
        diagnose_by(broken, hung_job(), vocabulary())
    with pytest.raises(ValueError, match="no column varies"):
        ranking(Asked({"w-a00_cpu": [1.0, 1.0, 1.0, 2.0]}, 3, "w-c0_latency", 1))


NAMES = [f"{who}_{figure.name}" for who in vocabulary().components for figure in FIGURES]


@given(st.permutations(NAMES))
def test_every_cause_is_in_the_vocabulary_and_none_is_said_twice(columns: list[str]) -> None:
    """The first column's service is blamed first; services come in the order of their columns; no cause repeats."""
    words = vocabulary()
    causes = causes_of(columns, "rollout", words)
    assert causes[0].component == columns[0].split("_")[0]
    assert list(dict.fromkeys(c.component for c in causes)) == list(dict.fromkeys(name.split("_")[0] for name in columns))
    assert len(set(causes)) == len(causes)
    assert {cause.kind for cause in causes} <= set(words.kinds)
