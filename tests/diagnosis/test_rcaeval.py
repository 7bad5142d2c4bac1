"""RCAEval's methods in their own environment and in the sandbox, and our variant of one beside the original."""

from __future__ import annotations

import random
import zipfile
from pathlib import Path
from typing import Any

import pytest

from diagnosis.columnwise import Asked
from diagnosis.diagnosers.baro_two_sided import ranking
from diagnosis.environment import VARIABLE, interpreter_of, offered, rcaeval_missing
from diagnosis.run import MODULES, RCAEVAL
from diagnosis.sandbox import ANSWERED, FAILED, attempt, attempt_by, limits_of
from tests.rcaeval import in_its_environment

GOLDEN = Path(__file__).parents[1] / "golden/benchmark.zip"
#: Of the golden cases, the one with a link that was throttled: train1 to the metaserver, in weights_update.
THROTTLED = "e863bb98663e1244cd169c5c3d8b2ba2"


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real case."""
    folder = tmp_path_factory.mktemp("golden")
    with zipfile.ZipFile(GOLDEN) as archive:
        archive.extractall(folder, [name for name in archive.namelist() if THROTTLED in name])
    return folder / "cases" / THROTTLED


#: The ranking by BARO of each table and of the table upside down.
BARO = """
import json, sys
import pandas as pd
from RCAEval.e2e.baro import baro
told = []
for columns, row in json.load(sys.stdin):
    table = pd.DataFrame({"time": range(len(next(iter(columns.values())))), **columns})
    told.append([baro(sign * table.assign(time=sign * table["time"]), row, dataset="re2-ob")["ranks"] for sign in (1, -1)])
print(json.dumps(told))
"""


def random_tables(n: int) -> list[tuple[dict[str, list[float]], int]]:
    """Tables of columns that are noise, steps, constants and falls, and the row from which they are to be explained."""
    draw = random.Random(7)
    tables = []
    for _ in range(n):
        rows = draw.randrange(8, 60)
        row = draw.randrange(3, rows - 2)
        columns = {f"s{number}_cpu": [draw.gauss(10, 2) for _ in range(rows)] for number in range(6)}
        columns["s6_mem"] = [1e6] * rows
        columns["s9_mem"] = [1e6 + (3e6 if at in (1, rows - 2) else 0) for at in range(rows)]
        columns["s7_mem"] = [draw.gauss(2e8, 1e6) + (9e7 if at >= row else 0) for at in range(rows)]
        columns["s8_workload"] = [draw.gauss(50, 1) * (at < row) + draw.random() for at in range(rows)]
        tables.append((columns, row))
    return tables


def test_one_sided_it_is_the_published_method() -> None:
    """With rises alone our ranking is BARO's, column by column, on any table; and of two sides, each side is that."""
    tables = random_tables(25)
    for (columns, row), (rises, falls) in zip(tables, in_its_environment(BARO, tables), strict=True):
        asked = Asked(columns, row, "", 0)
        assert ranking(asked, float, still=False) == rises
        assert ranking(asked, lambda z: -z, still=False) == falls
        assert ranking(asked)[0] in (rises[0], falls[0])


@pytest.mark.parametrize("name", RCAEVAL)
def test_each_method_answers_on_a_real_case(evidence: Path, name: str) -> None:
    """In the sandbox, with nothing but its own environment to read: a diagnosis of the stage in force at the alarm."""
    came = attempt_by(name, evidence, "T3")
    assert (came.status, came.isolation) == (ANSWERED, "namespaces"), came.reason
    assert came.diagnosis
    assert came.diagnosis.fault and came.diagnosis.ranked[0].stage == "weights_update"
    assert came.meter["lines"] > 1000


#: A diagnoser in the user's own file: CIRCA without what keeps its graph from failing.
UNPREPARED = """
from diagnosis.columnwise import diagnose_by
from diagnosis.rcaeval import ranks_of


def diagnose(reader, vocabulary):
    from RCAEval.e2e.circa import circa

    return diagnose_by(ranks_of(circa), reader, vocabulary)
"""


def test_the_order_of_the_columns_is_no_answer(evidence: Path, tmp_path: Path) -> None:
    """A method that failed, and silently gave back what it was given, has failed, in its own words."""
    file = tmp_path / "unprepared.py"
    file.write_text(UNPREPARED)
    came = attempt(file, evidence, "T3", limits_of("rcaeval-circa"), interpreter_of("rcaeval-circa"))
    assert came.status == FAILED
    assert "circa failed" in came.reason and "singular" in came.reason


#: What a hostile diagnoser in that environment gets hold of.
HOSTILE = """
import os, socket, sys
import numpy
from storage.records import Diagnosis


def diagnose(reader, vocabulary):
    done = [] if [name for _, name in socket.if_nameindex()] == ["lo"] else ["network"]
    for path in (numpy.__file__, sys.prefix + "/new", "/.code/new"):
        try:
            open(path, "a").close(); done.append(path)
        except OSError: pass
    done += [path for path in PATHS if os.path.exists(path)]
    return Diagnosis(fault=False, ranked=(), reason=str(done))
"""


def test_the_other_environment_opens_nothing_else(evidence: Path, tmp_path: Path) -> None:
    """Its interpreter brings its own folder, read-only: no network, no evidence as a file, no source of ours."""
    file = tmp_path / "hostile.py"
    paths = (str(evidence), str(Path(__file__)), str(evidence.parent), "/proc/self", "/etc/passwd")
    file.write_text(HOSTILE.replace("PATHS", repr(paths)))
    came = attempt(file, evidence, "T0", limits_of("rcaeval-baro"), interpreter_of("rcaeval-baro"))
    assert came.diagnosis and came.diagnosis.reason == "[]", came.reason or came.diagnosis


def test_methods_are_offered_where_their_environment_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Beside our own environment or where the variable says; one without RCAEval in it is told from none."""
    assert offered() == (*MODULES, *RCAEVAL)
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    assert offered() == tuple(MODULES) and f"{tmp_path} is none; make it with `make rcaeval`" in rcaeval_missing()
    (tmp_path / "pyvenv.cfg").write_text("home = /usr/bin\n")
    assert f"{tmp_path} has no RCAEval in it" in rcaeval_missing()


#: Two columns that are one, a constant one, and one of its own.
TWINS: dict[str, list[float]] = {
    "a_socket": [1.0, 2.0, 1.0, 3.0, 1.0, 1.0],
    "b_socket": [2.0, 4.0, 2.0, 6.0, 2.0, 2.0],
    "c_mem": [5.0] * 6,
    "d_cpu": [1.0, 1.0, 2.0, 1.0, 5.0, 1.0],
}
INDEPENDENT = """
import json, sys
from diagnosis.rcaeval import independent
print(json.dumps([list(independent(columns)) for columns in json.load(sys.stdin)]))
"""


def test_of_twins_one_is_kept() -> None:
    """Of columns that follow from one another the first stays; with no more rows than columns nothing is judged."""
    few: dict[str, Any] = {name: values[:3] for name, values in TWINS.items()}
    kept = in_its_environment(INDEPENDENT, [TWINS, dict(reversed(TWINS.items())), few])
    assert kept == [["a_socket", "c_mem", "d_cpu"], ["d_cpu", "c_mem", "b_socket"], list(few)]
