import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from diagnosis import sandbox
from diagnosis.environment import Interpreter, own_interpreter
from diagnosis.sandbox import Limits, attempt, builtin, namespaces_allowed
from storage.layout import RunPaths
from storage.truth import load_names
from tasks.seal import seal_run
from tests.synthetic_job import make_run

#: A hostile diagnoser answers what it got hold of as its reason.
HEADER = """
import os, sys, socket, time, json
from pathlib import Path
from storage.records import Diagnosis
def said(what):
    return Diagnosis(fault=False, ranked=(), reason=str(what))
def diagnose(reader, vocabulary):
"""


@pytest.fixture
def run(tmp_path: Path) -> RunPaths:
    """A sealed run."""
    paths = make_run(tmp_path)
    seal_run(paths)
    return paths


def hostile(folder: Path, body: str) -> Path:
    """A diagnoser file with this body."""
    file = folder / "hostile.py"
    file.write_text(HEADER + "".join(f"    {line}\n" for line in body.splitlines()))
    return file


def reason_of(run: RunPaths, body: str, **limits: float) -> str:
    """What the sandbox or the hostile diagnoser had to say."""
    came = attempt(hostile(run.root, body), run.evidence, "T0", Limits(**limits))  # type: ignore[arg-type]
    return came.diagnosis.reason if came.diagnosis else came.reason


def test_truth_is_out_of_reach(run: RunPaths) -> None:
    """By absolute path, by walking up, by searching the whole file system: neither label nor evidence is there as a file."""
    assert namespaces_allowed(), "this system refuses the namespaces that hold the sandbox; the isolation is not in force"
    body = f"""
paths = ({str(run.label)!r}, "../truth/label.json", "../../truth", "/proc/1/root", "/proc/self/mountinfo")
seen = [path for path in paths if os.path.exists(path)]
for top, folders, files in os.walk("/", onerror=None):
    folders[:] = [f for f in folders if os.path.join(top, f) not in ("/usr", sys.base_prefix)]
    seen += [os.path.join(top, f) for f in files if f in NAMES or f.endswith((".log", ".jsonl"))]
return said((seen, sorted(os.listdir("/"))))""".replace("NAMES", "('label.json', 'salt', 'plan.json', 'manifest.json')")
    seen = reason_of(run, body)
    assert seen.startswith("([], [") and "evidence" not in seen


def test_nothing_can_be_changed(run: RunPaths) -> None:
    """Code and interpreter are read-only, the root is not ours, and no capability is left."""
    body = """
done = []
for path in ("/.code/diagnosis/reader.py", "/.code/new", "/usr/new", "/new"):
    try:
        open(path, "a").close(); done.append(path)
    except OSError: pass
try:
    os.chroot("/.work"); done.append("chroot")
except OSError: pass
open("/.work/mine", "w").close()
return said((done, os.listdir("/.work")))"""
    assert reason_of(run, body) == "([], ['mine'])"


def test_no_network(run: RunPaths) -> None:
    """There is no interface to leave by, not even to a listener on this machine."""
    body = """
names = [name for _, name in socket.if_nameindex()]
try:
    socket.create_connection(("127.0.0.1", 22), timeout=2)
    return said("connected")
except OSError as error:
    return said((names, type(error).__name__))"""
    assert reason_of(run, body) == "(['lo'], 'OSError')"


def test_outside_process_cannot_be_seen_or_signalled(run: RunPaths) -> None:
    """The test's own process does not exist for the diagnoser, and the environment tells nothing."""
    body = f"""
try:
    os.kill({os.getpid()}, 0); alive = True
except OSError: alive = False
return said((alive, os.getppid(), sorted(set(os.environ) - {{"LC_CTYPE"}})))"""
    assert reason_of(run, body) == "(False, 0, ['HOME', 'LANG', 'PATH', 'PYTHONPATH'])"


def test_a_fork_bomb_is_bounded(run: RunPaths) -> None:
    """No more processes than the limit, and none of them outlives the diagnosis."""
    body = """
made = 0
for _ in range(100):
    try:
        if os.fork() == 0:
            time.sleep(60); os._exit(0)
        made += 1
    except OSError: break
return said(made)"""
    assert 0 <= int(reason_of(run, body, processes=4)) <= 4
    assert not [path for path in Path("/proc").glob("[0-9]*/cmdline") if b"diagnosis.run\0hostile" in _bytes(path)]


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("time.sleep(60)", "no answer within 1 s"),
        ("while True: pass", "no answer within 1 s"),
        ("reader.grep('(.*.*.*.*)+!', reader.logs()[0])", "no answer within 1 s"),
        ("raise RuntimeError('oops')", "no answer: ended with exit code 1: RuntimeError: oops"),
        ("os._exit(125)", "no answer: ended with exit code 125: no message"),
        ("os.write(1, b'garbage'); os._exit(0)", "no answer: ended with exit code 0"),
        ("os.write(1, b'x'); return said(1)", "no answer: ended with exit code 1: ValueError"),
        ("while True: os.write(1, b'{}\\n')", "no answer within 1 s"),
        ('os.close(0); [reader._requests.write(\'{"call": "list_files"}\\n\') for _ in range(9999)]', "no answer within 1 s"),
        ("reader._ask('submit', answer=[1]); time.sleep(9)", "malformed answer: it is no object"),
        ("return None", "no answer: ended with exit code 1: TypeError"),
        ("return said('x' * 10_000_000)", "no answer: ended with exit code"),
        ("return bytearray(4 << 30)", "no answer: ended with exit code 1: MemoryError"),
        ("reader.read('t1/../../truth/label.json')", "no answer: ended with exit code 1: diagnosis.reader.OutsideTierError"),
        ("return Diagnosis(fault=True, ranked=())", "malformed answer: causes belong to a fault that is claimed"),
    ],
)
def test_bad_diagnosers_end_as_a_reason(run: RunPaths, body: str, reason: str) -> None:
    """A hang, a crash, garbage, a huge answer: each is an attempt without diagnosis and with its reason."""
    came = attempt(hostile(run.root, body), run.evidence, "T0", Limits(wall_s=1.0 if "within" in reason else 30.0))
    assert came.diagnosis is None
    assert came.reason.startswith(reason)


SHELL = """#!/bin/bash
# A diagnoser in another language: whoever logged the first error of the controller's log is to blame.
echo '{"call": "case"}'; read -r case
echo '{"call": "list_files"}'; read -r files
[[ $files =~ t0/[-a-z0-9]+\\.log ]] && log=${BASH_REMATCH[0]}
echo "{\\"call\\": \\"grep\\", \\"pattern\\": \\" ERROR \\", \\"path\\": \\"$log\\"}"; read -r hits
[[ $hits =~ http://(w-[0-9a-f]+) ]] && who=${BASH_REMATCH[1]}
cause="{\\"component\\": \\"$who\\", \\"stage\\": \\"weights_update\\", \\"kind\\": \\"process-kill\\"}"
echo "{\\"call\\": \\"submit\\", \\"answer\\": {\\"fault\\": true, \\"ranked\\": [$cause]}}"
"""


def test_any_program_may_play(run: RunPaths) -> None:
    """A shell script that speaks the lines reads, answers and is metered as a Python diagnoser is; its calls are noted."""
    script = run.root / "by-hand"
    script.write_text(SHELL)
    script.chmod(0o755)
    came = attempt(script, run.evidence, "T0")
    assert (came.status, came.reason) == ("answered", "")
    assert came.diagnosis and came.diagnosis.ranked[0].component == load_names(run)["rollout1"]
    assert came.meter["files"] == 1 and came.meter["lines"] == 2
    assert [json.loads(line)["call"] for line in came.calls.splitlines()] == ["case", "list_files", "grep", "submit"]


def test_what_the_reader_breaks_is_nobodys_score(run: RunPaths) -> None:
    """A case whose manifest cannot be read is our failure: the attempt is unknown, and no diagnosis counts."""
    broken = run.root / "broken"
    broken.mkdir()
    (broken / "manifest.json").write_text("{")
    came = attempt(builtin("random"), broken, "T0")
    assert (came.status, came.diagnosis) == ("unknown", None)
    assert came.reason.startswith("the reader ended with exit code 1: json.decoder.JSONDecodeError")


def test_the_budget_of_evidence_is_a_ceiling(run: RunPaths) -> None:
    """Past the calls that a diagnosis may make nothing is served any more, and the answer is still taken."""
    body = """
served = 0
try:
    while True:
        reader.tail(reader.logs()[0], 1); served += 1
except ValueError as error: return said((served, str(error)))"""
    assert reason_of(run, body, calls=10) == "(5, 'Refused: the budget is spent; only submit is answered')"


def test_printing_does_not_spoil_the_answer(run: RunPaths) -> None:
    """What a diagnoser prints goes to standard error."""
    assert reason_of(run, "print('working on it'); return said('fine')") == "fine"


def test_diagnoser_needs_the_standard_library_alone(run: RunPaths) -> None:
    """No installed package can be imported in there: a diagnosis starts in milliseconds."""
    body = """
found = [name for name in ("pyarrow", "torch", "numpy", "scipy", "pytest") if name in sys.modules]
try:
    import pyarrow
    found.append("imported")
except ImportError: pass
return said(found)"""
    assert reason_of(run, body) == "[]"


def test_without_namespaces_it_says_so(run: RunPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where namespaces are refused the same diagnoser gives the same answer as a plain child, declared as such."""
    inside = attempt(builtin("first-error"), run.evidence, "T1")
    monkeypatch.setattr(sandbox, "namespaces_allowed", lambda: False)
    outside = attempt(builtin("first-error"), run.evidence, "T1")
    assert (inside.isolation, outside.isolation) == ("namespaces", "process")
    assert inside.diagnosis == outside.diagnosis is not None
    assert inside.meter == outside.meter


def test_evidence_in_a_shown_folder_is_not_called_isolated(run: RunPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that lies where the sandbox shows files is never declared isolated."""
    monkeypatch.setattr(sandbox, "SYSTEM", (*sandbox.SYSTEM, str(run.root.parent)))
    assert attempt(builtin("random"), run.evidence, "T0").isolation == "process"


@pytest.mark.parametrize("folder", ["work", "code"])
def test_an_interpreter_may_lie_anywhere(tmp_path: Path, folder: str) -> None:
    """Also in a folder whose name the sandbox once used itself: for a checkout there it could not be built."""
    assert namespaces_allowed()
    (tmp_path / "code").mkdir()
    own, shown = own_interpreter(), tmp_path / "environment"
    shown.mkdir()
    argv = [*own.command, "-c", f"import os; os.stat('/{folder}/main/environment'); open('mine', 'w').close()"]
    command = sandbox._command(tmp_path, argv, Limits(), "namespaces", own)
    spec = json.loads((tmp_path / "spec.json").read_text())
    spec["binds"][str(shown)] = f"/{folder}/main/environment"
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr + (tmp_path / "unbuilt").read_text()


def test_a_sandbox_that_cannot_be_built_is_no_answer(run: RunPaths, tmp_path: Path) -> None:
    """That is the judge's failure, and unknown; a program that cannot be started is the diagnoser's, and wrong."""
    assert namespaces_allowed()
    file, own = tmp_path / "file", own_interpreter()
    file.write_text("no folder")
    broken = Interpreter(own.command, (*own.folders, str(file)))
    came = attempt(hostile(run.root, "return said('ran')"), run.evidence, "T0", interpreter=broken)
    assert came.status == sandbox.UNKNOWN and came.reason.startswith("the sandbox cannot be built: "), came
    came = attempt(file, run.evidence, "T0")
    assert came.status == sandbox.FAILED and "cannot be started" in came.reason, came


def test_unknown_diagnoser_is_named(run: RunPaths) -> None:
    """A wrong name is refused with the list of known ones."""
    with pytest.raises(ValueError, match="no diagnoser 'oracle'; there are random, "):
        builtin("oracle")


PROGRAM = """
import sys
from pathlib import Path
from diagnosis.sandbox import attempt
came = attempt(Path(sys.argv[1]), Path(sys.argv[2]), "T0")
print(came.isolation, came.diagnosis.reason if came.diagnosis else came.reason)
"""


def test_an_ordinary_user_is_isolated_too(run: RunPaths, ordinary_user, scratch: Path) -> None:
    """Without root a user namespace gives the same walls: no truth, no network, nothing writable."""
    home = scratch / "home"
    shutil.copytree(run.root, home / "run", ignore=shutil.ignore_patterns("truth"))
    (home / "run" / "truth").mkdir(mode=0o755)
    (home / "run" / "truth" / "label.json").write_text("secret")
    body = f"""
seen = os.path.exists({str(home / "run/truth/label.json")!r})
writable = [path for path in ("/", "/usr", "/.code", "/.work") if os.access(path, os.W_OK)]
return said((seen, [n for _, n in socket.if_nameindex()], writable))"""
    process = ordinary_user([sys.executable, "-c", PROGRAM, str(hostile(home, body)), str(home / "run" / "evidence")])
    out, err = process.communicate(timeout=120)
    assert out.strip() == "namespaces (False, ['lo'], ['/.work'])", err
