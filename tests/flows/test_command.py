"""The command as a user meets it: help, lists, refusals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = Path(sys.executable).parent / "faultline"


def call(home: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the installed command in an empty home, with a temporary directory of its own (the machine lock lies there)."""
    surroundings = os.environ | {"FAULTLINE_HOME": str(home / "lab"), "TMPDIR": str(home)} | env
    return subprocess.run(
        [str(COMMAND), *words], env=surroundings, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL
    )


def test_help_imports_nothing_heavy() -> None:
    """What `--help` needs holds no torch, ray, prefect, duckdb, pyarrow, pydantic, numpy or rich."""
    code = "import sys, flows.command; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    loaded = set(done.stdout.split())
    assert "click" in loaded
    assert loaded & {"torch", "ray", "prefect", "duckdb", "pyarrow", "pydantic", "numpy", "rich", "yaml", "matplotlib"} == set()


def test_help_names_every_verb(tmp_path: Path) -> None:
    """`faultline --help` shows all verbs, and each has help of its own."""
    from flows.command import cli

    told = call(tmp_path, "--help").stdout
    reading = {"list", "show", "logs", "ps", "query", "indicators", "compare", "diagnose", "score", "env", "wait", "doctor"}
    reading |= {"gc", "export", "import", "reveal", "verify-seal"}
    doing = {"up", "down", "matrix", "run", "rerun", "stop", "recover", "proxy", "metrics", "benchmark", "agent"}
    assert set(cli.commands) == reading | doing
    assert all("--json" in call(tmp_path, verb, "--help").stdout for verb in reading)
    assert all(f"  {verb} " in told for verb in cli.commands)
    assert all(command.help for command in cli.commands.values())


def test_the_cells_of_the_sweep_are_listed(tmp_path: Path) -> None:
    """All, or of one split; what there is no cell of has its reason. Each listed name can be given to `run`."""
    whole = json.loads(call(tmp_path, "benchmark", "cells", "--json").stdout)
    held = json.loads(call(tmp_path, "benchmark", "cells", "--split", "held-out", "--json").stdout)
    assert 0 < len(held) < len(whole) > 100 and {cell["split"] for cell in held} == {"held-out"}
    assert all(row["reason"] for row in json.loads(call(tmp_path, "benchmark", "cells", "--left-out", "--json").stdout))
    told = call(tmp_path, "run", held[0]["name"], "--arm", "nonsense").stderr
    assert f"scenario '{held[0]['name']}' has no arm 'nonsense'; it has: control, legacy" in told


BAD = {
    "unknown verb": (["nonsense"], "No such command 'nonsense'"),
    "unknown scenario": (["run", "nonsense"], "unknown scenario 'nonsense'; known: "),
    "no such file": (["run", "nowhere.yaml"], "no such scenario file: nowhere.yaml"),
    "unknown arm": (["run", "worker-kill", "--arm", "nonsense"], "no arm 'nonsense'; it has: control, legacy"),
    "unknown profile": (["run", "worker-kill", "--profile", "x"], "unknown profile 'x'; known: "),
    "unknown place": (["run", "worker-kill", "--place", "moon"], "'moon' is not one of"),
    "seed no number": (["run", "worker-kill", "--seed", "x"], "'x' is not a valid integer"),
    "matrix profile": (["matrix", "--profile", "x"], "unknown profile 'x'; known: "),
    "matrix scenario": (["matrix", "--scenario", "x"], "unknown scenario 'x'; known: "),
    "matrix of nothing": (["matrix", "--scenario", "worker-kill", "--arm", "x", "--baselines", "0"], "nothing to run"),
    "show no run": (["show", "r0"], "no run 'r0'"),
    "show outside": (["show", "../x"], "not a run id: '../x'"),
    "rerun no run": (["rerun", "r0"], "no run 'r0'"),
    "score nothing": (["score"], "name at least one run"),
    "score no run": (["score", "r0"], "no run 'r0'"),
    "diagnose no run": (["diagnose", "r0"], "no run 'r0'"),
    "logs no run": (["logs", "r0"], "no run 'r0'"),
    "logs level": (["logs", "r0", "--level", "LOUD"], "'LOUD' is not one of"),
    "query no SQL": (["query", "SELEC 1"], 'syntax error at or near "SELEC"'),
    "query no table": (["query", "SELECT * FROM moon"], "Table with name moon does not exist"),
    "indicators of what": (["indicators", "moon"], "no table of the plan for 'moon'; for: weight-sync-link, "),
    "gc keep": (["gc", "--keep", "some"], "keep is 'some'; a number of runs (200) or of days (30d)"),
    "export no run": (["export", "r0", "x"], "no run 'r0'"),
    "import no file": (["import", "nowhere.tar.zst"], "nowhere.tar.zst"),
    "import no archive": (["import", "/etc/passwd"], "is no intact archive"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence(case: str, tmp_path: Path) -> None:
    """Bad input ends with exit code 2 and one line on standard error, and starts nothing."""
    words, sentence = BAD[case]
    done = call(tmp_path, *words)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert done.stderr.startswith("faultline: ")
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "lab" / "stack.json").exists()
    assert not list((tmp_path / "lab").glob("runs/*"))


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    """FAULTLINE_DEBUG=1 lets the exception through, for those who mend it."""
    assert "Traceback" in call(tmp_path, "show", "r0", FAULTLINE_DEBUG="1").stderr


def test_empty_home_is_no_error(tmp_path: Path) -> None:
    """In an empty home every reading verb says that there is nothing, as text and as JSON."""
    for verb in ("list", "ps", "recover", "gc"):
        assert call(tmp_path, verb).returncode == 0
        assert json.loads(call(tmp_path, verb, "--json").stdout) == []
    assert call(tmp_path, "down").stdout == "nothing was up\n"
    assert call(tmp_path, "stop").stdout == "nothing was running\n"
    told = call(tmp_path, "env")
    assert (told.returncode, told.stderr.splitlines()) == (
        1,
        ["faultline: no stack was ever started in this home; run: faultline up"],
    )


def test_unwritable_home_is_one_sentence(tmp_path: Path) -> None:
    """A home that cannot be made is told in one sentence."""
    (tmp_path / "lab").write_text("a file where the home should be")
    done = call(tmp_path, "list")
    assert done.returncode != 0
    assert done.stderr.startswith("faultline: ")
    assert len(done.stderr.splitlines()) == 1


def test_doctor_names_both_places(tmp_path: Path) -> None:
    """`faultline doctor` tells for each backend whether it can be had, and why not."""
    rows = json.loads(call(tmp_path, "doctor", "--json").stdout)
    assert {"virtual-cluster", "plain-host"} <= {row["backend"] for row in rows}
    assert all(row["reason"] for row in rows)
    assert "virtual-cluster" in call(tmp_path, "doctor").stdout


def test_doctor_tells_of_rcaevals_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is there beside our own, or it is told how to make it."""
    for place, there in (("", True), ("/nowhere", False)):
        monkeypatch.setenv("FAULTLINE_RCAEVAL", place)
        [row] = [row for row in json.loads(call(tmp_path, "doctor", "--json").stdout) if row["backend"] == "rcaeval"]
        assert row["available"] is there
        assert ("make rcaeval" in row["reason"]) is not there


def test_a_damaged_run_is_named(tmp_path: Path) -> None:
    """A run folder without manifest is listed as unreadable, with the reason on standard error."""
    (tmp_path / "lab" / "runs" / "r1").mkdir(parents=True)
    done = call(tmp_path, "list")
    assert done.returncode == 0
    assert "unreadable" in done.stdout
    assert "r1" in done.stderr
