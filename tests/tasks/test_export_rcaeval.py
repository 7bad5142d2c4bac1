"""Revealed runs as cases of RCAEval's layout: its loader reads what was stored, its methods run on it, both as they are."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from flows.command import cli
from storage.layout import RunPaths, runs_dir
from storage.reader import read_table
from storage.records import FaultKind
from storage.schemas import LOGS, METRICS
from storage.truth import load_history
from storage.writer import TableWriter
from tasks.export import TOKENS, export_rcaeval
from tasks.reveal import reveal_run
from tasks.seal import seal_run
from tests.rcaeval import in_its_environment, oracle
from tests.synthetic_case import BEGUN_S, end_well, healthy_rows, row, with_metrics
from tests.synthetic_job import ROLES, make_run

#: Seconds after the synthetic run's beginning: its first stage after init, when the fault takes hold, its last sample.
FIRST_S, FAULT_S, LAST_S = 5.0, 12.5, 20.0


def revealed(folder: Path, kind: str = "memory-pressure", seed: int = 17) -> RunPaths:
    """A revealed run of 40 samples a component, in which train1 holds more memory from the fault on; its seal is whole."""
    paths = with_metrics(make_run(folder, kind), [*healthy_rows(seed), *memory(), *link(seed)])
    end_well(paths, seed)
    lines = load_history(paths)
    for line in lines:
        if line["what"] == "applied":
            line["wall_s"] = BEGUN_S + FAULT_S + 0.1
    paths.history.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with TableWriter(paths.table("logs"), LOGS, writer="collected") as table:
        for number, (who, at_s, level) in enumerate(
            [("train1", 6.0, "INFO"), ("rollout0", 15.0, "ERROR"), ("train1", 1.0, "INFO")]
        ):
            table.append([(BEGUN_S + at_s, who, number, level, f"words, and\nmore {number}", "", -1, "", 0, 0)])
    seal_run(paths)
    reveal_run(paths)
    return paths


def memory() -> list[dict[str, Any]]:
    """A gigabyte each, restless; nine more on train1 since the fault."""
    noise = random.Random(3)
    ticks = [tick / 2 for tick in range(40)]
    more = {name: 9e9 if name == "train1" else 0.0 for name in ROLES}
    return [row(who, "rss_bytes", t, 1e9 + 1e7 * noise.random() + more[who] * (t >= FAULT_S)) for who in ROLES for t in ticks]


def link(seed: int) -> list[dict[str, Any]]:
    """A link that was not sampled every time."""
    return [
        row("train1>metaserver:weights", "link_rtt_s", t, 0.001 * (1 + (t + seed) % 3)) for t in (5.0, 7.5, 8.0, 13.0, 19.5)
    ]


READ = """
import json, sys
from RCAEval.utility import read_data, read_logs, read_metrics
case = json.load(sys.stdin)
metrics, simple, logs = read_metrics(case), read_data(case + "/simple_metrics.csv"), read_logs(case)
print(json.dumps({
    "metrics": {name: [None if value != value else value for value in metrics[name].tolist()] for name in metrics},
    "kind": str(metrics["time"].dtype),
    "simple": {name: simple[name].tolist() for name in simple},
    "logs": logs.to_dict("records"),
    "bins": read_data(case + "/logts.csv").to_dict("list"),
}))
"""


def test_its_loader_reads_what_was_stored(tmp_path: Path) -> None:
    """Every sample from the first stage on is in the row of its moment, one a second of the exported clock; logs are whole."""
    paths = revealed(tmp_path)
    told = export_rcaeval(paths, tmp_path / "out")
    case = tmp_path / "out/train1_mem/1"
    assert told["case"] == str(case) and (case / "inject_time.txt").read_text() == f"{told['inject_time']}\n"
    read = in_its_environment(READ, str(case))
    rows = int((LAST_S - FIRST_S) * 2)
    first = int(BEGUN_S + FIRST_S)
    assert read["kind"] == "int64" and read["metrics"]["time"] == read["simple"]["time"] == list(range(first, first + rows))
    assert told["inject_time"] == first + (FAULT_S - FIRST_S) * 2
    rows_stored = read_table(paths.table("metrics"), METRICS)[0].to_pylist()
    stored = {(one["component"], one["metric"], one["wall_s"]): one["value"] for one in rows_stored}
    for name, metric, figure in (
        ("train1", "cpu_ratio", "cpu"),
        ("rollout0", "rss_bytes", "mem"),
        ("train1", "rss_bytes", "mem"),
    ):
        values = [stored[name, metric, BEGUN_S + FIRST_S + tick / 2] for tick in range(rows)]
        assert read["metrics"][f"{name}_{figure}"] == read["metrics"][f"{name}_{metric.replace('_', '-')}"] == values
        assert read["simple"][f"{name}_{figure}"] == pytest.approx(values)  # pandas reads the last digit of a text as it likes
    # Seldom sampled: absent in the one, held in the other, as RCAEval's two loaders have it.
    seldom = read["metrics"]["train1_latency"]
    assert [row for row, value in enumerate(seldom) if value is not None] == [0, 5, 6, 16, 29]
    assert read["simple"]["train1_latency"][16:29] == pytest.approx([seldom[16]] * 13)
    assert not [name for name in read["metrics"] if name.count("_") != 1 and name != "time"]
    assert not [name for name in read["metrics"] if name.startswith(("machine", "trainers"))]
    assert [(line["container_name"], line["message"]) for line in read["logs"]] == [
        ("train1", "words, and\nmore 0"),
        ("rollout0", "words, and\nmore 1"),
    ]
    assert read["bins"] == {"time": [first, first + 15], "rollout0_log-error": [0, 1], "train1_log-info": [1, 0]}


def test_its_methods_run_on_it_as_they_are(tmp_path: Path) -> None:
    """baro, nsigma and circa rank the columns of exported cases, and its scorer finds the faulty service by what rose."""
    for seed in (17, 18):
        export_rcaeval(revealed(tmp_path, seed=seed), tmp_path / "out")
    told = oracle(tmp_path / "out")
    answers = [line for line in told if "case" in line]
    assert {(line["case"], line["method"]) for line in answers} == {
        (f"train1_mem/{number}", method) for number in (1, 2) for method in ("baro", "nsigma", "circa")
    }
    assert [line["failed"] for line in answers] == [""] * 6
    rates = {(line["method"], line["grain"]): line for line in told if "grain" in line}
    for method in ("baro", "nsigma"):
        assert rates[method, "service"]["ac1"] == rates[method, "column"]["ac1"] == 1.0
    assert rates["circa", "service"]["n"] == 2 and 0 < rates["circa", "service"]["chance_avg5"] < 1


def test_what_cannot_be_a_case_is_refused(tmp_path: Path) -> None:
    """A run still blind, one in which nothing was done, one without truth, one twice: a sentence each, and no folder."""
    blind = make_run(tmp_path)
    seal_run(blind)
    without = revealed(tmp_path)
    shutil.rmtree(without.truth)
    for paths, sentence in (
        (blind, "is not revealed, and its folder's name would tell the label"),
        (revealed(tmp_path, "noop"), "nothing was done"),
        (without, "has no truth here"),
    ):
        with pytest.raises(ValueError, match=sentence):
            export_rcaeval(paths, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    twice = revealed(tmp_path)
    export_rcaeval(twice, tmp_path / "out")
    with pytest.raises(FileExistsError, match=r"is there already: .*train1_mem/1"):
        export_rcaeval(twice, tmp_path / "out")


def test_without_metrics_there_is_no_case(tmp_path: Path) -> None:
    """A run of which nothing was sampled is refused, and leaves nothing behind."""
    paths = revealed(tmp_path)
    shutil.rmtree(paths.table("metrics"))
    with pytest.raises(ValueError, match="has no metrics to export"):
        export_rcaeval(paths, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_every_kind_has_a_token() -> None:
    """Whatever can be done to a job comes under one of the six words that RCAEval's totals know."""
    assert set(TOKENS) == set(FaultKind) - {FaultKind.NOOP}
    assert set(TOKENS.values()) == {"cpu", "mem", "disk", "delay", "loss", "socket"}


def test_the_command_writes_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`faultline export RUN... FOLDER --format rcaeval`; as an archive it takes one run alone."""
    monkeypatch.setenv("FAULTLINE_HOME", str(tmp_path / "home"))
    runs = [revealed(runs_dir(), kind) for kind in ("memory-pressure", "network-delay")]
    words = ["export", *(paths.run_id for paths in runs), str(tmp_path / "out")]
    told = CliRunner().invoke(cli, [*words, "--format", "rcaeval", "--json"], catch_exceptions=False)
    assert told.exit_code == 0, told.output
    assert [Path(case["case"]).parent.name for case in json.loads(told.stdout)] == ["train1_mem", "train1_delay"]
    refused = CliRunner().invoke(cli, words)
    assert refused.exit_code == 2 and "an archive is of one RUN" in refused.output
