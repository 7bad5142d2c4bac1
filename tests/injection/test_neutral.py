"""What a process of the job can see of its place tells it nothing about what is done to it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.kill_each import SCENARIO
from injection import entry, procfs
from injection.child import PROGRAMS
from injection.virtual import loop
from storage.layout import new_run_id, run_paths
from storage.records import FaultKind
from storage.truth import load_history
from tasks.launch import Experiment, _start_sampler, open_site, start_hands, write_plan
from tasks.plan import load_scenario, make_plan
from tasks.revert import revert
from tests.injection.victim import Seam, plan_fault, register, wait_until

pytestmark = pytest.mark.job

LINK = {"type": "link", "src": "train0", "dst": "metaserver", "purpose": "weights"}
DISK, FILE = ({"type": "path", "component": "train0", "path": path} for path in ("recover", "model.pt"))
#: Something of everything that leaves a trace, all at once.
FAULTS = (
    ("cpu-contention", {"share_percent": 10.0}, {"type": "process", "component": "train0"}),
    ("memory-pressure", {"where": "group-or-process", "headroom_mib": 500.0}, {"type": "process", "component": "train0"}),
    ("disk-fill", {"percent": 50.0}, DISK),
    ("io-contention", {"how": "contend", "bytes_per_s": 1e5}, DISK),
    ("file-corruption", {"how": "flip"}, FILE),
    ("dns-failure", {"how": "nxdomain"}, LINK),
    ("network-delay", {"delay_ms": 5.0}, LINK),
    ("network-bandwidth", {"rate_bytes_per_s": 1e6}, LINK),
)
#: Of the lab, of its processes, its kinds and its helpers. That a cluster is watched (`telemetry`) tells nothing.
PROCESSES = {"watchdog", "probe", "sampler", "journal", "keeper", "guard"}
TELLTALES = sorted(
    {"faultline", "fault", "inject", "chaos", "prefect", "toxic", *PROCESSES, *(str(kind) for kind in FaultKind)}
)
HELPERS = sorted(path.stem for path in PROGRAMS.glob("*.py") if path.stem != "__init__")
#: What a process of the job finds: groups, limits, mounts, sockets, files, rules and queues; and who else is there.
LOOK = """
import json, os
from pathlib import Path
from pyroute2 import IPRoute
from pyroute2.nftables.main import NFTables
places = ("/proc/self/cgroup", "/proc/self/mounts", "/proc/self/limits", "/proc/net/unix", "/etc/resolv.conf", "/etc/hosts")
seen = {place: Path(place).read_text() for place in places}
seen["files"] = [str(path) for folder in (os.environ["SITE"], os.environ["JOB"]) for path in Path(folder).rglob("*")]
with NFTables() as rules, IPRoute() as route:
    seen["tables"] = [table.get_attr("NFTA_TABLE_NAME") for table in rules.get_tables()]
    seen["chains"] = [chain.get_attr("NFTA_CHAIN_NAME") for chain in rules.get_chains()]
    seen["queues"] = [queue.get_attr("TCA_KIND") for queue in route.get_qdiscs()]
    seen["devices"] = [device.get_attr("IFLA_IFNAME") for device in route.get_links()]
seen["processes"] = {}
for entry in Path("/proc").iterdir():
    if entry.name.isdigit() and int(entry.name) != os.getpid():
        try:
            about = {name: (entry / name).read_text().split("\\0") for name in ("cmdline", "environ", "comm")}
            seen["processes"][entry.name] = {**about, "cwd": os.readlink(entry / "cwd")}
        except OSError:
            pass
print(json.dumps(seen))
"""


@pytest.fixture
def experiment(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Experiment]:
    """A run's place with all its faults in force on a sleeper in the job's seat."""
    monkeypatch.setenv("FAULTLINE_HOME", str(scratch / "home"))
    plan = make_plan(load_scenario(SCENARIO), "legacy", 17, place="virtual-cluster")
    faults = [
        plan_fault(kind, params, id=f"f{number}", target=target)
        for number, (kind, params, target) in enumerate(FAULTS, start=1)
    ]
    one = Experiment({**plan, "faults": faults, "disk_mib": 16, "names": True}, run_paths(new_run_id()).create())
    write_plan(one)
    try:
        open_site(one)
        (one.paths.job / "model.pt").write_bytes(bytes(range(100)))
        start_hands(one)
        _start_sampler(one)
        _put_in_its_seat(one)
        wait_until(lambda: told(one, "armed") + told(one, "invalid") == len(FAULTS), "all are armed or refused", 90)
        seam = Seam(one.at().scratch / "stage")
        seam.reach("train", 3)
        wait_until(lambda: told(one, "applied") + told(one, "invalid") >= len(FAULTS), "all are in force", 60)
        yield one
        seam.close()
    finally:
        revert(one)


def told(one: Experiment, what: str) -> int:
    """Of how many faults the truth says so."""
    return len({line["fault_id"] for line in load_history(one.paths) if line["what"] == what})


def _put_in_its_seat(one: Experiment) -> None:
    """A process of the job, registered as one. What it is inside is asked inside."""
    log = one.paths.lab_logs / "ticks.log"
    sleeper = one.at().spawn(["sleep", "600"], host="trainers", log=one.paths.logs / "train0.log")
    code = "import sys; from injection.procfs import identity; print(identity(int(sys.argv[1])).start_ticks)"
    asked = one.at().spawn([sys.executable, "-c", code, str(sleeper.pid)], host="", log=log)
    assert asked.wait(60) == 0
    register(one.paths.registry, "train0", procfs.Identity(sleeper.pid, int(log.read_text())), "trainers")


def look(one: Experiment, scratch: Path) -> dict[str, Any]:
    """What the process table and the rest show on the target's host."""
    log = scratch / "look.log"
    process = one.at().spawn([sys.executable, "-c", LOOK], host="trainers", log=log, env={"JOB": str(one.paths.job)})
    assert process.wait(60) == 0, log.read_text()
    found: dict[str, Any] = json.loads(log.read_text())
    for about in found["processes"].values():  # where the code lies is the user's affair
        about["environ"] = [
            word for word in about["environ"] if word.split("=")[0] not in ("PATH", "PYTHONPATH", "VIRTUAL_ENV")
        ]
    return found


def test_a_job_sees_nothing_that_tells(experiment: Experiment, scratch: Path) -> None:
    """With faults of every means in force no process, variable, group, mount, socket, file, chain or queue names the lab."""
    invalid = [line["reason"] for line in load_history(experiment.paths) if line["what"] == "invalid"]
    refused = [reason for reason in invalid if not reason.startswith("no effect seen")]
    assert len(refused) == (1 if loop.why_not() else 0), refused
    seen = look(experiment, scratch)
    lines = [" ".join(about["cmdline"]) for about in seen["processes"].values()]
    standing = [line for line in lines if str(experiment.at().scratch) in line]
    assert len(standing) >= 4 + len(FAULTS), f"PID 1, injector, watchdog, name server and probes at least: {lines}"
    assert sum(" -S -E /proc/self/fd/" in line for line in lines) >= 4, lines
    assert seen["tables"] == [], "what is done to packets is done at the other end"
    everything = json.dumps(seen).lower()
    for own in (str(experiment.paths.root), str(scratch), str(entry.CODE)):
        everything = everything.replace(own.lower(), "")
    assert "sleep" in everything and str(experiment.at().scratch) in everything, "the search must be able to find what is there"
    assert "htb" in seen["queues"]
    found = {word: everything[max(0, everything.index(word) - 60) :][:120] for word in TELLTALES if word in everything}
    assert found == {}
    assert [word for word in HELPERS if word in json.dumps(lines)] == []
    texts = [path.read_bytes() for path in experiment.at().scratch.iterdir() if path.is_file()]
    assert [text for text in texts if b"runpy" in text] == [], "what said which module to run is gone once it runs"
