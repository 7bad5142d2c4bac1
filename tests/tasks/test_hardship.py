"""A machine that does not give what a run needs: one clear sentence, an exit code, nothing left, old data readable."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.kill_each import FAULTLINE, LIMIT_S, SCENARIO, START_S, await_applied, residue
from storage.manifest import load_manifest
from tests.tasks.conftest import Faultline

pytestmark = [pytest.mark.job, pytest.mark.timeout(1200)]

NO_RAY = """
from rlhf import ray_nodes
whole = ray_nodes.environment
ray_nodes.environment = lambda *a, **k: whole(*a, **k) | {"PYTHONPATH": f"SHADOW:{whole(*a, **k)['PYTHONPATH']}"}
"""
TAKEN_PORT = """
import socket
from adapters import native
taken = socket.create_server(("127.0.0.1", 0))
whole = native.free_ports
native.free_ports = lambda names: whole(names) | {"rollout1": taken.getsockname()[1]}
"""
#: A small disk of one's own, with an old run on it and so much room left.
SMALL_DISK = (
    "unshare", "--user", "--map-root-user", "--mount", "sh", "-ec",
    'mkdir -p "$FAULTLINE_HOME"; mount -t tmpfs -o size=6m tmpfs "$FAULTLINE_HOME"; exec "$@"', "sh",
)  # fmt: skip
FILL = """
import atexit, json, os, sys
from storage.layout import home, runs_dir
from tests.report.synthetic import worker_lost, write_run
old = write_run(worker_lost())
free = os.statvfs(home()).f_bavail * os.statvfs(home()).f_frsize
(home() / "filling").write_bytes(bytes(free - ROOM))

def look():
    from storage.catalogue import list_runs
    from storage.reader import read_table
    from storage.schemas import TABLES
    rows, problems = read_table(old.table("logs"), TABLES["logs"])
    print(json.dumps({"rows": rows.num_rows, "problems": problems, "journal": os.listdir(home() / "journal"),
                      "runs": len(list_runs())}))

atexit.register(look)
"""
NO_NAMESPACES = (
    "unshare",
    "--user",
    "--map-root-user",
    "sh",
    "-ec",
    'echo 0 > /proc/sys/user/max_net_namespaces; exec "$@"',
    "sh",
)


def scenario(folder: Path, **trigger: object) -> str:
    """A short healthy scenario's file, with another trigger."""
    path = folder / "short.yaml"
    spec = {"kind": "noop", "target": {"role": "controller"}, "trigger": trigger, "until": {"when": "end"}}
    rest = {"name": "short", "title": "short", "workload": "grpo", "posture": "legacy", "arms": ["control", "legacy"]}
    path.write_text(json.dumps({**rest, "job": {"steps": 3}, "faults": [spec]}))
    return str(path)


def test_a_trigger_that_never_fires(faultline: Faultline, scratch: Path) -> None:
    """The run is invalid for that reason, is not judged, and the exit code says so."""
    file = scenario(scratch, step=1, stage="reference", when="error")
    run = faultline("run", file, "--arm", "legacy", "--place", "plain-host", "--json")
    assert run.code == 1
    assert "step 2 began before error of reference in step 1 was announced" in "; ".join(run.outcome["invalid_because"])
    assert run.paths is not None
    assert load_manifest(run.paths).state == "invalid"
    assert not run.paths.evidence.exists()


def test_no_ray(faultline: Faultline, scratch: Path) -> None:
    """Without Ray the run ends at once, and the sentence names what is missing."""
    shadow = scratch / "shadow"
    shadow.mkdir()
    (shadow / "ray.py").write_text("raise ImportError('Ray is not installed')\n")
    run = faultline(
        "run", "no-fault", "--arm", "control", "--place", "plain-host", "--json", before=NO_RAY.replace("SHADOW", str(shadow))
    )
    assert run.code == 1
    assert "Ray's node localhost ended" in run.error
    assert "Ray is not installed" in run.error
    assert run.seconds < 60


def test_a_port_in_use(faultline: Faultline) -> None:
    """A worker whose port another program has makes the run invalid; the reason names worker and cause."""
    run = faultline("run", "no-fault", "--arm", "control", "--place", "plain-host", "--json", before=TAKEN_PORT)
    assert run.code == 1
    why = "; ".join(run.outcome["invalid_because"])
    assert "rollout1 cannot listen on 127.0.0.1:" in why
    assert "Address already in use" in why


@pytest.mark.parametrize("room", [20_000, 300_000])
def test_a_full_disk(room: int, faultline: Faultline) -> None:
    """Whether the disk is full at the start or soon after, an older run is still read, and no fault stays in force."""
    before = FILL.replace("ROOM", str(room))
    run = faultline("run", "no-fault", "--arm", "control", "--place", "plain-host", "--json", before=before, within=SMALL_DISK)
    assert run.code == 1
    assert "no space left on device" in run.error or "the disk is full" in run.error
    assert run.outcome["rows"] > 0
    assert run.outcome["problems"] == run.outcome["journal"] == []


def test_namespaces_that_are_refused(faultline: Faultline) -> None:
    """A virtual cluster that cannot be had is refused with the kernel's reason."""
    run = faultline("run", "no-fault", "--arm", "control", "--place", "virtual-cluster", "--json", within=NO_NAMESPACES)
    assert run.code == 1
    assert run.error.startswith("faultline: the place could not be made: unshare")
    assert run.paths is not None
    assert load_manifest(run.paths).state == "crashed"


@pytest.mark.parametrize(("how", "place"), [("ctrl-c", "virtual-cluster"), ("stop", "plain-host")])
def test_an_interrupted_run_undoes_itself(how: str, place: str, scratch: Path, ordinary_user: Callable) -> None:
    """Ctrl-C, and `faultline stop` (SIGTERM), amid four faults: all undone, everything ended, no traceback, an exit code."""
    home = scratch / "home" / "lab"
    program = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler); {FAULTLINE}"
    began = time.monotonic()
    while True:
        lab = ordinary_user([sys.executable, "-c", program, "run", str(SCENARIO), "--place", place])
        try:
            traces = await_applied(lab, home)
            break
        except AssertionError as error:
            if "already runs an experiment" not in str(error) or time.monotonic() > began + START_S:
                raise
    if how == "stop":
        stop = ordinary_user([sys.executable, "-c", FAULTLINE, "stop"])
        assert stop.communicate(timeout=LIMIT_S)[1] == ""
        assert stop.returncode == 0
    else:
        lab.send_signal(signal.SIGINT)
    _, errors = lab.communicate(timeout=LIMIT_S)
    assert lab.returncode == 128 + (signal.SIGTERM if how == "stop" else signal.SIGINT)
    assert "Traceback" not in errors
    assert residue(traces) == []
    assert list((home / "journal").iterdir()) == []
    assert json.loads((home / "runs" / traces.run_id / "manifest.json").read_text())["state"] == "cancelled"
