"""`faultline show --follow` as a user meets it: from another process, on a terminal and through a pipe."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import pytest

from injection.procfs import identity
from storage import truth
from storage.layout import RunPaths, run_paths
from storage.manifest import RunState, end_manifest, start_manifest

COMMAND = [str(Path(sys.executable).parent / "faultline"), "show", "--follow"]
FAULT = {"id": "f1", "kind": "process-kill", "target": {"type": "process", "component": "train0"}}


@pytest.fixture
def carrier() -> Iterator[subprocess.Popen[bytes]]:
    """The process that carries the run."""
    process = subprocess.Popen(["sleep", "1000"])
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, carrier: subprocess.Popen[bytes]) -> RunPaths:
    """A run that is under way."""
    monkeypatch.setenv("FAULTLINE_HOME", str(tmp_path))
    paths = run_paths("r1").create()
    start_manifest(paths, profile="smoke", workload="grpo", posture="legacy", place="plain-host")
    truth.save_plan(paths, {"scenario": "worker-kill", "arm": "legacy", "job": {"steps": 12}, "faults": [FAULT]})
    truth.save_carrier(paths, asdict(identity(carrier.pid)))
    enter(paths, "rollout", 1)
    return paths


def enter(paths: RunPaths, stage: str, step: int) -> None:
    line = {"what": "event", "fault_id": "", "component": "controller", "phase": "enter", "stage": stage, "step": step}
    with paths.history.open("a") as file:
        file.write(json.dumps(line) + "\n")


def heed_interrupts() -> None:
    """A shell that runs the tests in the background has told its children to take no notice of Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def on_a_terminal(act: Callable[[subprocess.Popen[bytes], str], bool]) -> tuple[int, str]:
    """Follow on a pseudo-terminal; ``act`` is called with all that was drawn until it returns True. Exit code and drawing."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        COMMAND, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, preexec_fn=heed_interrupts
    )
    os.close(theirs)
    drawn, acted = b"", False
    with suppress(OSError):  # EIO: the terminal's other end is closed
        while piece := os.read(ours, 65536):
            drawn += piece
            acted = acted or act(process, drawn.decode(errors="replace"))
    os.close(ours)
    return process.wait(60), drawn.decode()


@pytest.mark.job
def test_on_a_terminal_it_redraws_and_leaves_it_as_it_was(run: RunPaths, carrier: subprocess.Popen[bytes]) -> None:
    """What is new is drawn over what was; a run whose process is killed ends it with 1, Ctrl-C with 130, the cursor shown."""

    def interrupt(process: subprocess.Popen[bytes], drawn: str) -> bool:
        if "step 1 of 12: rollout" in drawn:
            process.send_signal(signal.SIGINT)
        return "step 1 of 12: rollout" in drawn

    code, drawn = on_a_terminal(interrupt)
    assert code == 130 and "r1 goes on" in drawn and drawn.rindex("\x1b[?25h") > drawn.rindex("\x1b[?25l")

    def go_on_then_die(process: subprocess.Popen[bytes], drawn: str) -> bool:
        if "step 1 of 12: rollout" in drawn and "step 2" not in run.history.read_text().replace('"step": ', "step "):
            enter(run, "train", 2)
        if "step 2 of 12: train" in drawn:
            carrier.kill()
            carrier.wait()
        return "step 2 of 12: train" in drawn

    code, drawn = on_a_terminal(go_on_then_die)
    assert code == 1 and "killed: the process that carried it is gone" in drawn
    assert "\x1b[1A" in drawn  # the cursor went up: drawn in place


@pytest.mark.job
def test_through_a_pipe_it_is_a_line_for_each_change(run: RunPaths) -> None:
    """No control characters, each change once, and 0 at the end of a completed run."""
    process = subprocess.Popen(COMMAND, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line.rstrip("\n").partition("] ")[2])
        if lines[-1] == "step 1 of 12: rollout":
            enter(run, "train", 2)
        if lines[-1] == "step 2 of 12: train":
            end_manifest(run, RunState.COMPLETED)
    assert process.wait(60) == 0
    assert lines == [
        *("r1: worker-kill / legacy, 12 steps", "step 1 of 12: rollout", "fault f1 (process-kill on train0): planned"),
        *("step 2 of 12: train", "completed: faultline show r1"),
    ]
