"""Run one diagnoser on one tier of one case, out of reach of the truth, and say what came of it.

The diagnoser's process gets a copy of the tier's files and its own code. Where the system allows it, it lives in its own
mount, PID, network and IPC namespaces (and a user namespace, unless the caller is root), on a root that holds nothing else.
Where not, it runs as a plain child with the same limits, and the result says so. A crash, a hang, or a malformed or
oversized answer is a result as well: it counts as wrong, with the reason.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from diagnosis.answer import MalformedAnswerError, parse_answer
from diagnosis.run import MODULES
from storage.records import Diagnosis

ROOM = Path(__file__).resolve().parent
#: What a diagnoser may import besides the standard library, relative to the source root.
CODE = (
    *(f"diagnosis/{name}.py" for name in ("__init__", "run", "reader", "clues", "vocabulary", "diagnosers/__init__")),
    *(f"storage/{name}.py" for name in ("__init__", "records")),
)
POLL_S = 0.005
SYSTEM = ("/usr", "/lib", "/lib64", "/lib32", "/bin")


@dataclass(frozen=True)
class Limits:
    """What one diagnosis may use: wall and CPU seconds, bytes of address space and of answer, open files, processes."""

    wall_s: float = 30.0
    cpu_s: int = 20
    memory_bytes: int = 1 << 30
    answer_bytes: int = 1 << 20
    files: int = 64
    processes: int = 4


@dataclass(frozen=True)
class Attempt:
    """What came of one diagnoser: a diagnosis, or the reason why there is none. ``isolation``: namespaces | process."""

    diagnosis: Diagnosis | None
    reason: str
    meter: dict[str, int] = field(default_factory=dict)
    wall_s: float = 0.0
    isolation: str = "process"


def builtin(name: str) -> Path:
    """The file of a diagnoser that comes with the lab. Raises ValueError naming the known ones."""
    if name not in MODULES:
        raise ValueError(f"no diagnoser {name!r}; there are {', '.join(MODULES)}")
    return ROOM / "diagnosers" / f"{MODULES[name]}.py"


def attempt(diagnoser: Path, evidence: Path, tier: str, limits: Limits | None = None) -> Attempt:
    """Run the diagnoser in ``diagnoser`` (a Python file with a ``diagnose`` function) on a tier of the case in ``evidence``."""
    limits = limits or Limits()
    isolation = "namespaces" if namespaces_allowed() and _is_hidden(evidence) else "process"
    with tempfile.TemporaryDirectory(prefix="case-") as folder:
        place = Path(folder)
        manifest = copy_tier(evidence, tier, place / "evidence")
        _copy_code(diagnoser, place / "code")
        _open_to_nobody(place)
        at = "" if isolation == "namespaces" else folder
        command = _command(place, ["-m", "diagnosis.run", diagnoser.stem, f"{at}/evidence", tier], limits, isolation)
        begun = time.monotonic()
        code = _run(command, place, limits.wall_s)
        wall_s = time.monotonic() - begun
        answer, complaint = _text(place / "answer", limits.answer_bytes + 1), _text(place / "complaint", 4000)
    diagnosis, meter, reason = _judge(code, answer, complaint, manifest, limits)
    return Attempt(diagnosis, reason, meter, wall_s, isolation)


@cache
def namespaces_allowed() -> bool:
    """Whether this system lets the caller build the sandbox; tried once, in full, with an empty program."""
    with tempfile.TemporaryDirectory(prefix="case-") as folder:
        place = Path(folder)
        for name in ("code", "evidence"):
            (place / name).mkdir()
        command = _command(place, ["-c", ""], Limits(), "namespaces")
        try:
            return _run(command, place, Limits().wall_s) == 0
        except OSError:
            return False


def copy_tier(evidence: Path, tier: str, target: Path) -> dict[str, Any]:
    """Copy the tier's files and a manifest that lists no others; returns that manifest. KeyError: no such tier."""
    manifest: dict[str, Any] = json.loads((evidence / "manifest.json").read_text())
    files = manifest["tiers"][tier]
    manifest["tiers"] = {tier: files}
    manifest["files"] = {path: manifest["files"][path] for path in files}
    for path in files:
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(evidence / path, target / path)
    (target / "manifest.json").write_text(json.dumps(manifest))
    return manifest


def _copy_code(diagnoser: Path, target: Path) -> None:
    for path in CODE:
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOM.parent / path, target / path)
    shutil.copyfile(diagnoser, target / "diagnosis/diagnosers" / diagnoser.name)


def _open_to_nobody(place: Path) -> None:
    """Readable to the uid the diagnoser gets, whatever the caller's umask; the folder around it stays closed to others."""
    for path in place.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _namespaces() -> list[str]:
    """Root makes the namespaces itself and becomes nobody in them; an ordinary user needs a user namespace for it."""
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return ["unshare", *user, "--net", "--mount", "--pid", "--ipc", "--fork", "--kill-child"]


def _interpreter() -> tuple[str, str]:
    """(interpreter outside any virtual environment, the folder it needs)."""
    return str(Path(getattr(sys, "_base_executable", sys.executable)).resolve()), sys.base_prefix


def _is_hidden(evidence: Path) -> bool:
    """The run must not lie in a folder that the sandbox shows, else the truth would be seen through it."""
    return not any(evidence.resolve().is_relative_to(shown) for shown in (*SYSTEM, _interpreter()[1]))


def _command(place: Path, arguments: list[str], limits: Limits, isolation: str) -> list[str]:
    """Write the second stage's orders and answer the command that follows them: Python with ``arguments``."""
    python, prefix = _interpreter()
    inside = isolation == "namespaces"
    at = Path("/") if inside else place
    for name in ("root", "work"):
        (place / name).mkdir()
    shown = {path: path for path in dict.fromkeys((*SYSTEM, prefix)) if Path(path).exists()}
    spec = {
        "root": str(place / "root") if inside else "",
        "binds": {**shown, str(place / "code"): "/code", str(place / "evidence"): "/evidence"},
        "cwd": str(at / "work"),
        "argv": [python, "-S", "-s", "-B", *arguments],
        "env": {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONPATH": str(at / "code"), "HOME": str(at / "work")},
        "limits": {
            "CPU": limits.cpu_s,
            "AS": limits.memory_bytes,
            "FSIZE": limits.answer_bytes,
            "NOFILE": limits.files,
            "NPROC": limits.processes,
        },
    }
    (place / "spec.json").write_text(json.dumps(spec))
    return [*(_namespaces() if inside else []), python, "-S", "-s", "-B", "-E", str(ROOM / "jail.py"), str(place / "spec.json")]


def _run(command: list[str], place: Path, wall_s: float) -> int | None:
    """Exit code of the command, or None when it had to be ended; answer and complaint go to files, which have size limits."""
    with (place / "answer").open("wb") as answer, (place / "complaint").open("wb") as complaint:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=answer, stderr=complaint, env={"PATH": os.defpath}, start_new_session=True
        )
        ended = _await_end(process.pid, wall_s)
        # Not reaped yet, so the group's number is still its own: whatever the diagnoser left behind ends with it.
        os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
    return code if ended else None


def _await_end(pid: int, wall_s: float) -> bool:
    """Whether the child ended in time; it is left unreaped."""
    deadline = time.monotonic() + wall_s
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def _text(path: Path, most: int) -> str:
    with path.open("rb") as file:
        return file.read(most).decode("utf-8", "replace")


def _judge(
    code: int | None, answer: str, complaint: str, manifest: dict[str, Any], limits: Limits
) -> tuple[Diagnosis | None, dict[str, int], str]:
    if code is None:
        return None, {}, f"no answer within {limits.wall_s:g} s"
    if code != 0:
        last = complaint.strip().splitlines()[-1:] or ["no message"]
        return None, {}, f"ended with exit code {code}: {last[0][:300]}"
    try:
        diagnosis, meter = parse_answer(answer, manifest)
    except MalformedAnswerError as error:
        return None, {}, f"malformed answer: {error}"
    return diagnosis, meter, ""
