"""kill -9 of each of the lab's processes in turn, while four faults are in force: how long until nothing is left.

    python -m bench.kill_each [--place PLACE] [--killed NAME] [--repeats N]

A run needs the machine for itself and waits for it. The command's exit code is 1 when the promise was not held.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.parts import part
from injection import journal
from injection.procfs import namespace_inode, pid_namespace_lives
from injection.strays import MARK, marked
from tasks.machine_lock import holder
from tasks.plan import LEASE_S, load_scenario, make_plan

SCENARIO = Path(__file__).with_suffix(".yaml")
#: Until a run has got the machine and its faults are in force, s; other runs may be before it.
START_S = 900.0
#: How long residue is waited for, s; what is there after that is left over.
LIMIT_S = 90.0
#: What is promised for every single kill, s: the lease, and five seconds for the undoing itself.
PROMISE_S = LEASE_S + 5.0
POLL_S = 0.05
LAB = """
import json, sys
from pathlib import Path
from tasks.experiment import run_experiment
plan = json.loads(Path(sys.argv[1]).read_text())
tell = lambda line: print(line, file=sys.stderr, flush=True)
outcome = run_experiment(plan, tell, wait_s=float(sys.argv[2]))
print(json.dumps(outcome))
sys.exit(0 if outcome["valid"] else 1)
"""
FAULTLINE = "from flows.command import main; main()"
#: The lab's processes that are killed; those that stand in one kind of place only, apart.
PARTS = ("injector", "watchdog", "sampler", "probe")
OF_PLACE = {"virtual-cluster": ("keeper", "init"), "plain-host": ("keeper", "proxy")}
#: Who is replaced when killed: the run goes on to its end, and its faults with it.
REPLACED = ("probe",)
TOGETHER = {"injector and watchdog": ("injector", "watchdog"), "lab and keeper": ("lab", "keeper")}

Start = Callable[..., "subprocess.Popen[str]"]


@dataclass(frozen=True)
class Cell:
    """What one kill came to. ``gone_s``: seconds until nothing was left; ``left``: what was there after `LIMIT_S`."""

    place: str
    killed: str
    gone_s: float
    left: list[str]
    exit_code: int
    said: str
    after_recover: list[str]


@dataclass(frozen=True)
class Traces:
    """By what a run's residue would be known."""

    lab: int
    run_id: str
    home: Path
    scratch: Path
    networks: frozenset[int]
    devices: frozenset[str]
    noted_s: float


def names(place: str) -> list[str]:
    """Everything that can be killed in a place."""
    return ["lab", *PARTS, *OF_PLACE[place], *TOGETHER]


def start(place: str, home: Path, folder: Path, run: Start) -> subprocess.Popen[str]:
    """A lab process with a run whose faults stay until it ends. ``run`` starts a command with its output in pipes."""
    plan = folder / "plan.json"
    plan.write_text(json.dumps(make_plan(load_scenario(SCENARIO), "legacy", 17, place=place)))
    return run([sys.executable, "-c", LAB, str(plan), str(START_S)], FAULTLINE_HOME=str(home))


def await_applied(lab: subprocess.Popen[str], home: Path) -> Traces:
    """Wait until every fault is in force, and note where the run leaves its traces."""
    deadline = time.monotonic() + START_S
    while not (run_id := _in_force(home)):
        assert lab.poll() is None, f"the run ended before its faults were in force: {lab.communicate()}"
        assert time.monotonic() < deadline, "the faults were not in force in time"
        time.sleep(POLL_S)
    inside = psutil.Process(lab.pid).children(recursive=True)
    scratch = next(found for process in inside if (found := _environment(process).get(MARK)))
    networks = {network_of(process) for process in inside} - {namespace_inode("self", "net"), 0}
    return Traces(lab.pid, run_id, home, Path(scratch), frozenset(networks), _devices(), time.time())


def _in_force(home: Path) -> str:
    """The run whose faults are all applied; "" while there is none."""
    for history in home.glob("runs/*/truth/history.jsonl"):
        told = [json.loads(line) for line in history.read_text().splitlines(keepends=True) if line.endswith("\n")]
        plan = json.loads((history.parent / "plan.json").read_text())
        if {line["fault_id"] for line in told if line["what"] == "applied"} == {fault["id"] for fault in plan["faults"]}:
            return history.parent.parent.name
    return ""


def find(lab: int, killed: str) -> list[psutil.Process]:
    """The processes meant by a name."""
    if killed in TOGETHER:
        return [process for one in TOGETHER[killed] for process in find(lab, one)]
    if killed == "lab":
        return [psutil.Process(lab)]
    return [process for process in psutil.Process(lab).children(recursive=True) if part(process) == killed]


def residue(traces: Traces) -> list[str]:
    """Everything of a run that is still there, in words."""
    processes = {process.pid: process for process in [*marked(traces.scratch), *_with_word(traces.run_id, traces.lab)]}
    found = [_told(process) for process in processes.values()]
    old = (process for process in psutil.process_iter(["create_time"]) if process.info["create_time"] < traces.noted_s)
    if traces.networks & {network_of(process) for process in old}:  # the kernel gives a number again: a later run may have it
        found.append("network namespaces")
    found += [f"device {name}" for name in _devices() - traces.devices]
    found += [f"folder {traces.scratch}"] if traces.scratch.exists() else []
    found += [f"fault in force: {record.fault_id} ({record.state})" for record in _open_records(traces)]
    if holder().get("pid") == traces.lab and not psutil.pid_exists(traces.lab):
        found.append("machine lock")
    return found


def _open_records(traces: Traces) -> list[journal.Record]:
    """Records of faults that may be in force. One whose PID namespace is gone cannot be; the next sweep removes it."""
    records = journal.records(traces.home / "journal", traces.run_id)
    return [one for one in records if one.state != journal.State.REVERTED and pid_namespace_lives(one.pid_namespace)]


def _with_word(word: str, but: int) -> list[psutil.Process]:
    others = (process for process in psutil.process_iter(["cmdline"]) if process.pid not in (but, os.getpid()))
    return [process for process in others if any(word in one for one in process.info["cmdline"] or [])]


def _told(process: psutil.Process) -> str:
    try:
        return f"{process.status()} process: {' '.join(process.cmdline()[:4])}"
    except psutil.Error:
        return "process that is ending"


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except (psutil.Error, OSError):
        return {}


def network_of(process: psutil.Process) -> int:
    try:
        return namespace_inode(process.pid, "net")
    except OSError:
        return 0


def _devices() -> frozenset[str]:
    return frozenset(path.name for path in Path("/sys/class/net").iterdir())


def measure(place: str, killed: str, home: Path, folder: Path, run: Start) -> Cell:
    """One run, one kill, and what is left of it until nothing is; then `faultline recover`, as the next user would."""
    lab = start(place, home, folder, run)
    try:
        traces = await_applied(lab, home)
        victims = find(lab.pid, killed)
        assert victims, f"no process of the run is the {killed}"
        began = time.monotonic()
        for victim in victims:
            victim.send_signal(signal.SIGKILL)
        while (left := residue(traces)) and time.monotonic() < began + LIMIT_S:
            time.sleep(POLL_S)
        gone_s = time.monotonic() - began
        out, errors = lab.communicate(timeout=LIMIT_S)
    finally:
        if lab.poll() is None:
            lab.kill()
            lab.communicate()
    after = recovered(traces, home, run)
    return Cell(place, killed, gone_s, left, lab.returncode, last_words(out, errors), after)


def recovered(traces: Traces, home: Path, run: Start) -> list[str]:
    """What is left after `faultline recover`, the journal and runs without an end included."""
    deadline, busy = time.monotonic() + START_S, True
    while busy and time.monotonic() < deadline:
        done = run([sys.executable, "-c", FAULTLINE, "recover", "--json"], FAULTLINE_HOME=str(home))
        said, errors = done.communicate(timeout=LIMIT_S)
        busy = "already runs an experiment" in errors
    found = residue(traces) if done.returncode == 0 else [f"recover: {said or errors}"]
    found += [f"journal: {path.name}" for path in (home / "journal").iterdir()]
    states = {path.parent.name: json.loads(path.read_text())["state"] for path in home.glob("runs/*/manifest.json")}
    return [*found, *(f"run {name} still {state}" for name, state in states.items() if state == "running")]


def last_words(out: str, errors: str) -> str:
    """Why the run does not count: the outcome's reasons, or the last line of the error."""
    if out.strip():
        return "; ".join(json.loads(out.splitlines()[-1])["invalid_because"]) or "valid"
    return (errors.strip().splitlines() or [""])[-1].rpartition("Error: ")[2]


def as_oneself(argv: list[str], **env: str) -> subprocess.Popen[str]:
    """Start a command as this user."""
    pipe = subprocess.PIPE
    return subprocess.Popen(argv, env=os.environ | env, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True)


def table(cells: list[Cell]) -> list[str]:
    """Rows of Markdown: place, killed, runs, worst time, what was left."""
    heads = ["place", "killed", "runs", "gone after, worst", "left over", "after the next start", "what the run said"]
    rows = [_row(heads), _row(["---"] * len(heads))]
    for place, killed in dict.fromkeys((cell.place, cell.killed) for cell in cells):
        mine = [cell for cell in cells if (cell.place, cell.killed) == (place, killed)]
        left = sorted({one.partition(": ")[0] for cell in mine for one in cell.left})
        later = sorted({one for cell in mine for one in cell.after_recover})
        worst = f"{max(cell.gone_s for cell in mine):.1f} s" if killed not in REPLACED else "(it is replaced)"
        said = mine[-1].said.partition("; ")[0] if "lab" not in killed else "(it was killed)"
        rows.append(_row([place, killed, str(len(mine)), worst, *("; ".join(one) or "nothing" for one in (left, later)), said]))
    return rows


def _row(words: list[str]) -> str:
    return f"| {' | '.join(words)} |"


def good(cell: Cell) -> bool:
    """Whether the promise was held: in time after a single kill, and after the next start whatever was killed."""
    in_time = cell.killed in TOGETHER or cell.killed in REPLACED or (not cell.left and cell.gone_s <= PROMISE_S)
    return in_time and not cell.after_recover


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m bench.kill_each", description=__doc__)
    parser.add_argument("--place", choices=sorted(OF_PLACE), action="append")
    parser.add_argument("--killed", action="append")
    parser.add_argument("--repeats", type=int, default=1)
    given = parser.parse_args()
    cells = []
    for place in given.place or sorted(OF_PLACE, reverse=True):
        for killed in [name for name in names(place) if not given.killed or name in given.killed] * given.repeats:
            with tempfile.TemporaryDirectory(prefix="kill-") as folder:
                cells.append(measure(place, killed, Path(folder) / "home", Path(folder), as_oneself))
            print(table(cells[-1:])[-1], flush=True)
    print("\n" + "\n".join(table(cells)))
    return 0 if all(map(good, cells)) else 1


if __name__ == "__main__":
    sys.exit(main())
