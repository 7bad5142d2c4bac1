"""What a process of the job can see of its place tells it nothing about what is done to it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from injection.child import PROGRAMS
from injection.disk import Disk
from injection.place import open_place
from injection.virtual import loop
from injection.virtual.addresses import BRIDGE_ADDRESS, DNS_PORT
from storage.records import FaultKind
from tests.injection.victim import wait_until

pytestmark = pytest.mark.job

#: Of the lab, of its kinds and of its helpers.
TELLTALES = sorted({"faultline", "fault", "inject", "chaos", "prefect", "toxic", *(str(kind) for kind in FaultKind)})
HELPERS = sorted(path.stem for path in PROGRAMS.glob("*.py") if path.stem != "__init__")
#: Everything of every kind at once, in the injector's seat; it is not the job's, and stands there in every arm.
HANDS = """
import os, sys, time
from pathlib import Path
from injection import procfs
from injection.fault import Context
from injection.measure import ask_here
from injection.registry import make_fault
from injection.target import LiveLink, LivePath, LiveProcess
folder = Path(sys.argv[1])
me = LiveProcess("train0", "trainers", "", procfs.identity(int(sys.argv[2])))
link = LiveLink("train0>metaserver:weights", "trainers", "10.98.0.100", "control", "10.98.0.101", 8080, "metaserver.cluster")
disk, file = LivePath(me, folder / "recover"), LivePath(me, folder / "model.pt")
(folder / "model.pt").write_bytes(bytes(range(100)))
held = []
for kind, target, params in (
    ("cpu-contention", me, {"share_percent": 10}),
    ("memory-pressure", me, {"where": "group-or-process", "headroom_mib": 500}),
    ("disk-fill", disk, {"percent": 50}),
    ("io-contention", disk, {"how": "contend", "bytes_per_s": 1e5}),
    ("file-corruption", file, {"how": "flip"}),
    ("dns-failure", link, {"how": "nxdomain"}),
):
    try:
        one = make_fault(kind, params, Context(target, "", ask_here, job=folder))
        one.arm(); held.append((one, one.undo())); one.apply()
    except RuntimeError as refusal:
        print("refused", kind, refusal, flush=True)
print("all", flush=True)
time.sleep(4)
for one, undo in held:
    type(one).revert(undo)
print("over", flush=True)
"""
#: What a process of the job finds: its own environment, group, limits and mounts; sockets and files; who else is there.
LOOK = """
import json, os
from pathlib import Path
places = ("/proc/self/cgroup", "/proc/self/mounts", "/proc/self/limits", "/proc/net/unix", "/etc/resolv.conf", "/etc/hosts")
seen = {"environ": dict(os.environ), **{place: Path(place).read_text() for place in places}}
seen["files"] = [str(path) for folder in (os.environ["SITE"], os.environ["JOB"]) for path in Path(folder).rglob("*")]
seen["processes"] = {}
for entry in Path("/proc").iterdir():
    if entry.name.isdigit():
        try:
            seen["processes"][entry.name] = (entry / "cmdline").read_text().split("\\0")
        except OSError:
            pass
print(json.dumps(seen))
"""


@pytest.fixture
def job(scratch: Path) -> Path:
    """The job's folder; its path is the user's affair."""
    (scratch / "job" / "recover").mkdir(parents=True)
    return scratch / "job"


def test_a_job_sees_nothing_that_tells(scratch: Path, job: Path) -> None:
    """With a fault of each kind in force: environment, groups, mounts, sockets, files and helpers hold no word of the lab."""
    place = open_place(
        "virtual-cluster", {"train0": "trainers", "metaserver": "control"}, Disk(job / "recover", 16), names=True
    )
    try:
        (scratch / "names.json").write_text(json.dumps({"metaserver.cluster": "10.98.0.101"}))
        names = ["-m", "injection.names", str(place.scratch), f"{BRIDGE_ADDRESS}:{DNS_PORT}", str(scratch / "names.json")]
        servers = [place.spawn([sys.executable, *names], host="", log=scratch / "names.log")]
        wait_until(lambda: "ready" in (scratch / "names.log").read_text(), "names are told")
        victim = place.spawn(["sleep", "600"], host="trainers", log=scratch / "victim.log")
        servers.append(
            place.spawn([sys.executable, "-c", HANDS, str(job), str(victim.pid)], host="", log=scratch / "hands.log")
        )
        wait_until(lambda: "all" in (scratch / "hands.log").read_text(), "everything is in force", 60)
        look = place.spawn([sys.executable, "-c", LOOK], host="trainers", log=scratch / "look.log", env={"JOB": str(job)})
        assert look.wait(30) == 0
        seen = json.loads((scratch / "look.log").read_text())
        wait_until(lambda: "over" in (scratch / "hands.log").read_text(), "everything is undone", 60)
    finally:
        place.close()
    refused = [line for line in (scratch / "hands.log").read_text().splitlines() if line.startswith("refused")]
    assert [line.split()[1] for line in refused] == ([] if not loop.why_not() else ["io-contention"])
    standing = {str(process.pid) for process in servers} | {"1", str(look.pid)}
    helpers = {pid: words for pid, words in seen.pop("processes").items() if pid not in standing}
    assert sum(words[0] == "python3" for words in helpers.values()) >= 4, helpers
    seen["environ"].pop("PYTHONPATH"), seen["environ"].pop("PATH"), seen["environ"].pop("VIRTUAL_ENV")  # where the code lies
    told = json.dumps([seen, list(helpers.values())]).lower().replace(str(scratch).lower(), "")
    assert "sleep" in told and str(place.scratch) in told, "the search must be able to find what is there"
    assert [word for word in TELLTALES if word in told] == []
    assert [word for word in HELPERS if word in json.dumps(list(helpers.values()))] == []
