"""Run one diagnoser on one tier of one case, out of reach of case and truth, and say what came of it.

The diagnoser's process gets its own code and two pipes to the reader's process (`diagnosis.serve`), which alone opens the
case: what it sees is what it asked for, and all of that is metered. Where the system allows it, it lives in its own mount, PID,
network and IPC namespaces (and a user namespace, unless the caller is root), on a root that holds nothing else. Where not, it
runs as a plain child with the same limits, and the result says so: there it could open files beside the reader. A crash, a
hang, or a malformed or oversized answer is a result as well: it counts as wrong, with the reason. A crash of the reader's
process, and a sandbox that cannot be built, are ours: the result is unknown.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from diagnosis.answer import MalformedAnswerError, parse_diagnosis
from diagnosis.environment import Interpreter, interpreter_of, own_interpreter
from diagnosis.jail import CODE, WORK
from diagnosis.run import MODULES, RCAEVAL
from storage.records import Diagnosis

ROOM = Path(__file__).resolve().parent
#: Where every Python diagnoser starts.
ENTRY = "diagnosis/run.py"
POLL_S = 0.005
#: Two threads that parse at once end in a SystemError (CPython 3.11).
PARSING = threading.Lock()
SYSTEM = ("/usr", "/lib", "/lib64", "/lib32", "/bin")
ANSWERED, FAILED, UNKNOWN = "answered", "failed", "unknown"


@dataclass(frozen=True)
class Limits:
    """What one diagnosis may use: wall and CPU seconds, bytes of address space and of complaint, open files, processes.

    ``calls`` and ``served_bytes`` are its budget of evidence.
    """

    wall_s: float = 30.0
    cpu_s: int = 20
    memory_bytes: int = 1 << 30
    complaint_bytes: int = 1 << 20
    files: int = 64
    processes: int = 32
    calls: int = 100_000
    served_bytes: int = 1 << 28


@dataclass(frozen=True)
class Attempt:
    """What came of one diagnoser: a diagnosis, or the reason why there is none. ``isolation``: namespaces | process.

    ``status`` is answered, failed (its doing: counts as wrong) or unknown (ours: counts as nothing). ``calls`` are the
    reader's notes, one JSON object a line.
    """

    diagnosis: Diagnosis | None
    reason: str
    meter: dict[str, int] = field(default_factory=dict)
    wall_s: float = 0.0
    isolation: str = "process"
    status: str = FAILED
    calls: str = ""


def builtin(name: str) -> Path:
    """The file of a diagnoser that comes with the lab. Raises ValueError naming the known ones."""
    known = MODULES | RCAEVAL
    if name not in known:
        raise ValueError(f"no diagnoser {name!r}; there are {', '.join(known)}")
    return ROOM / "diagnosers" / f"{known[name]}.py"


@cache
def code_sha256(diagnoser: Path) -> str:
    """The hash of all that a diagnoser runs of ours: its file, and what that and its beginning import. Worked out once."""
    ours = _needed(ROOM.parent / ENTRY, diagnoser) if diagnoser.suffix == ".py" else set()
    total = hashlib.sha256(diagnoser.read_bytes())
    for path in sorted(ours):
        total.update(path.encode() + (ROOM.parent / path).read_bytes())
    return total.hexdigest()


def limits_of(name: str) -> Limits:
    """What a diagnoser by this name may use: RCAEval's libraries take seconds to be loaded."""
    return Limits(wall_s=90.0, cpu_s=60) if name in RCAEVAL else Limits()


def attempt_by(name: str, evidence: Path, tier: str) -> Attempt:
    """Run a diagnoser that comes with the lab, with its interpreter. Raises ValueError where there is none of either."""
    return attempt(builtin(name), evidence, tier, limits_of(name), interpreter_of(name))


def attempt(
    diagnoser: Path, evidence: Path, tier: str, limits: Limits | None = None, interpreter: Interpreter | None = None
) -> Attempt:
    """Run a diagnoser on a tier of the case in ``evidence``: a Python file with a ``diagnose`` function, or any program.

    A program (whatever does not end in .py) is executed as it is and speaks `diagnosis.channel`'s lines.
    """
    limits, interpreter = limits or Limits(), interpreter or own_interpreter()
    isolation = "namespaces" if namespaces_allowed() and _is_hidden(evidence, interpreter) else "process"
    with tempfile.TemporaryDirectory(prefix="case-") as folder:
        place = Path(folder)
        (place / "code").mkdir()
        argv = _program(diagnoser, place / "code", Path(CODE) if isolation == "namespaces" else place / "code", interpreter)
        _open_to_nobody(place)
        command = _command(place, argv, limits, isolation, interpreter)
        begun = time.monotonic()
        ended = _converse(command, _server(evidence, tier, limits, place / "result"), place, limits.wall_s)
        wall_s = time.monotonic() - begun
        status, diagnosis, meter, reason = _judge(ended, place, evidence, limits)
        calls = _text(place / "result.calls.jsonl", limits.served_bytes)
    return Attempt(diagnosis, reason, meter, wall_s, isolation, status, calls)


@cache
def namespaces_allowed() -> bool:
    """Whether this system lets the caller build the sandbox; tried once, in full, with an empty program."""
    with tempfile.TemporaryDirectory(prefix="case-") as folder:
        place = Path(folder)
        (place / "code").mkdir()
        own = own_interpreter()
        command = _command(place, [*own.command, "-c", ""], Limits(), "namespaces", own)
        try:
            return subprocess.run(command, capture_output=True, timeout=Limits().wall_s, check=False).returncode == 0
        except (OSError, subprocess.TimeoutExpired):
            return False


def _program(diagnoser: Path, code: Path, inside: Path, interpreter: Interpreter) -> list[str]:
    """Copy the diagnoser's code; answer how it is started from there."""
    if diagnoser.suffix != ".py":
        shutil.copyfile(diagnoser, code / diagnoser.name)
        return [str(inside / diagnoser.name)]
    for path in _needed(ROOM.parent / ENTRY, diagnoser):
        (code / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOM.parent / path, code / path)
    (code / "diagnosis/diagnosers").mkdir(exist_ok=True)
    for package in ("diagnosis", "diagnosis/diagnosers", "storage"):
        (code / package / "__init__.py").touch()
    shutil.copyfile(diagnoser, code / "diagnosis/diagnosers" / diagnoser.name)
    return [*interpreter.command, "-m", "diagnosis.run", diagnoser.stem]


def _needed(*files: Path) -> set[str]:
    """Our own modules that these files import, and those that they import in turn, as paths from the source root."""
    found: set[str] = set()
    waiting = list(files)
    while waiting:
        with PARSING:
            tree = ast.parse(waiting.pop().read_bytes())
        for node in ast.walk(tree):
            module = node.module if isinstance(node, ast.ImportFrom) and node.module else ""
            path = f"{module.replace('.', '/')}.py"
            if module.split(".")[0] in ("diagnosis", "storage") and path not in found and (ROOM.parent / path).is_file():
                found.add(path)
                waiting.append(ROOM.parent / path)
    return found | {ENTRY}


def _open_to_nobody(place: Path) -> None:
    """Readable, and a program, to whoever the diagnoser becomes; the folder around it stays closed to others."""
    for path in place.rglob("*"):
        path.chmod(0o755)


def _namespaces() -> list[str]:
    """Root makes the namespaces itself and becomes nobody in them; an ordinary user needs a user namespace for it."""
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return ["unshare", *user, "--net", "--mount", "--pid", "--ipc", "--fork", "--kill-child"]


def _is_hidden(evidence: Path, interpreter: Interpreter) -> bool:
    """The run must not lie in a folder that the sandbox shows, else the truth would be seen through it."""
    return not any(evidence.resolve().is_relative_to(Path(shown).resolve()) for shown in (*SYSTEM, *interpreter.folders))


def _server(evidence: Path, tier: str, limits: Limits, result: Path) -> list[str]:
    budget = json.dumps({"calls": limits.calls, "bytes": limits.served_bytes})
    return [*own_interpreter().command, "-m", "diagnosis.serve", str(evidence), tier, budget, str(result)]


def _command(place: Path, argv: list[str], limits: Limits, isolation: str, interpreter: Interpreter) -> list[str]:
    """Write the second stage's orders and answer the command that follows them: ``argv``, in the sandbox."""
    inside = isolation == "namespaces"
    code, work = (CODE, WORK) if inside else (str(place / "code"), str(place / "work"))
    for name in ("root", "work"):
        (place / name).mkdir()
    shown = {path: path for path in dict.fromkeys((*SYSTEM, *interpreter.folders)) if Path(path).exists()}
    usual = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONPATH": code, "HOME": work}
    spec = {
        "root": str(place / "root") if inside else "",
        "binds": {**shown, str(place / "code"): CODE},
        "cwd": work,
        "unbuilt": str(place / "unbuilt"),
        "argv": argv,
        "env": {**usual, **interpreter.env},
        "limits": {
            "CPU": limits.cpu_s,
            "AS": limits.memory_bytes,
            "FSIZE": limits.complaint_bytes,
            "NOFILE": limits.files,
            "NPROC": limits.processes,
        },
    }
    (place / "spec.json").write_text(json.dumps(spec))
    jail = [*own_interpreter().command, "-E", str(ROOM / "jail.py"), str(place / "spec.json")]
    return [*(_namespaces() if inside else []), *jail]


@dataclass(frozen=True)
class _Ended:
    """Exit codes of diagnoser and reader; None: it had to be ended."""

    diagnoser: int | None
    reader: int | None


def _converse(command: list[str], server: list[str], place: Path, wall_s: float) -> _Ended:
    """Start both, each at the other's pipe, and wait until the reader has an answer, or the diagnoser or the time has ended."""
    with (place / "complaint").open("wb") as complaint, (place / "failure").open("wb") as failure:
        common: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "start_new_session": True}
        diagnoser = subprocess.Popen(command, stderr=complaint, env={"PATH": os.defpath}, **common)
        assert diagnoser.stdin
        assert diagnoser.stdout
        with diagnoser.stdin as replies, diagnoser.stdout as requests:
            reader = subprocess.Popen(
                server,
                stdin=requests,
                stdout=replies,
                stderr=failure,
                env={"PYTHONPATH": str(ROOM.parent)},
                start_new_session=True,
            )
        deadline = time.monotonic() + wall_s
        first = _await_any([diagnoser.pid, reader.pid], deadline)
        if diagnoser.pid in first:
            # Whoever it left behind would hold the pipe open.
            os.killpg(diagnoser.pid, signal.SIGKILL)
            first |= _await_any([reader.pid], deadline)
        for process in (diagnoser, reader):
            # Not reaped yet, so the group's number is still its own: whatever it left behind ends with it.
            os.killpg(process.pid, signal.SIGKILL)
        codes = {process.pid: process.wait() for process in (diagnoser, reader)}
    return _Ended(*(codes[pid] if pid in first else None for pid in (diagnoser.pid, reader.pid)))


def _await_any(pids: list[int], deadline: float) -> set[int]:
    """Which of the children have ended, as soon as one has, or none when the time is over; they are left unreaped."""
    while time.monotonic() <= deadline:
        ended = {pid for pid in pids if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)}
        if ended:
            return ended
        time.sleep(POLL_S)
    return set()


def _text(path: Path, most: int) -> str:
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return file.read(most).decode("utf-8", "replace")


def _judge(ended: _Ended, place: Path, evidence: Path, limits: Limits) -> tuple[str, Diagnosis | None, dict[str, int], str]:
    """(status, diagnosis, meter, reason)."""
    if unbuilt := _text(place / "unbuilt", 4000).strip():
        return UNKNOWN, None, {}, unbuilt
    if ended.reader is None:
        return FAILED, None, {}, f"no answer within {limits.wall_s:g} s"
    if ended.reader != 0:
        return UNKNOWN, None, {}, f"the reader ended with exit code {ended.reader}: {_last_line(place / 'failure')}"
    told = json.loads((place / "result").read_bytes())
    meter = told["meter"]
    if told["answer"] is None:
        code = "" if ended.diagnoser is None else f": ended with exit code {ended.diagnoser}: {_last_line(place / 'complaint')}"
        return FAILED, None, meter, f"no answer{code}"
    manifest = json.loads((evidence / "manifest.json").read_text())
    try:
        return ANSWERED, parse_diagnosis(told["answer"], manifest), meter, ""
    except MalformedAnswerError as error:
        return FAILED, None, meter, f"malformed answer: {error}"


def _last_line(path: Path) -> str:
    return (_text(path, 4000).strip().splitlines()[-1:] or ["no message"])[0][:300]
