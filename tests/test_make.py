"""What `make` says where it cannot work."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

#: A stand-in for an interpreter: version check and module check end as told.
FAKE = """#!/bin/sh
case "$*" in
  --version) echo "Python 3.9.2";;
  *version_info*) exit {version};;
  *ensurepip*) exit {ensurepip};;
  *) echo "called: $*" >&2; exit 9;;
esac
"""


def make(python: str, venv: Path) -> subprocess.CompletedProcess[str]:
    """`make install` with another interpreter and environment, so that this one is left alone."""
    words = ["make", "-s", "install", f"PYTHON={python}", f"VENV={venv}"]
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(words, cwd=ROOT, env=plain, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("version", "ensurepip", "sentence"),
    [
        (1, 0, "Python 3.9.2 is too old; 3.11 or later is needed"),
        (0, 1, "cannot make environments; on Debian: apt-get install python3-venv"),
    ],
)
def test_what_is_missing_is_named(version: int, ensurepip: int, sentence: str, tmp_path: Path) -> None:
    """An old Python, or one without venv, is told in one sentence, and nothing is made."""
    python = tmp_path / "python3"
    python.write_text(FAKE.format(version=version, ensurepip=ensurepip))
    python.chmod(0o755)
    done = make(str(python), tmp_path / "venv")
    assert done.returncode != 0
    assert sentence in done.stderr
    assert not (tmp_path / "venv").exists()


def test_no_python_is_named(tmp_path: Path) -> None:
    """Where there is no such interpreter, make says how to name one."""
    done = make("/nowhere/python3", tmp_path / "venv")
    assert done.returncode != 0
    assert "there is no /nowhere/python3" in done.stderr


def test_help_names_every_target() -> None:
    """`make help` lists each target that is meant to be called."""
    told = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, timeout=60).stdout
    for target in ("rcaeval", "fault-matrix", "test", "test-all", "test-quick", "check", "lock", "clean"):
        assert f"make {target} " in told


@pytest.mark.parametrize("target", ["test", "test-quick", "test-all"])
def test_tests_bring_what_they_need(target: str, tmp_path: Path) -> None:
    """Each target that runs tests makes RCAEval's environment first, beside ours: no test is left out for want of it."""
    words = ["make", "-n", target, f"VENV={tmp_path / 'venv'}"]
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    told = subprocess.run(words, cwd=ROOT, env=plain, capture_output=True, text=True, timeout=60).stdout
    made = f"{tmp_path / 'venv-rcaeval'}/bin/python -m pip"
    assert 0 < told.find(made) < told.find("-m pytest") and "requirements-rcaeval.lock" in told


def test_ci_script_is_sound() -> None:
    """.ci/run is executable and bash can read it."""
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", str(script)], check=True, timeout=60)
