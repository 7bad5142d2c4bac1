"""Launch: open a place, stand the lab's processes in it, and start the job under test."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adapters.native import NativeJob, component_hosts, job_links
from injection.disk import Disk
from injection.entry import entry
from injection.place import Place, Process, open_place
from injection.proxies import start_proxies
from injection.virtual.addresses import BRIDGE_ADDRESS, DNS_PORT, host_name
from injection.watchdog_client import outliving
from rlhf.config import JobConfig, job_config
from storage.layout import RunPaths, journal_dir, new_run_id, run_paths
from storage.manifest import start_manifest
from tasks.plan import Plan, save_plan
from tasks.waiting import Watched, says, wait_for

READY_S = 60.0
CLOCK_PORT = 9123


@dataclass
class Experiment:
    """What runs for one run. Parts that are not started yet are None; `tasks.revert` ends whatever there is."""

    plan: Plan
    paths: RunPaths
    place: Place | None = None
    job: NativeJob | None = None
    injector: Process | None = None
    sampler: Process | None = None
    watchdog: subprocess.Popen[bytes] | Process | None = None
    guard: subprocess.Popen[bytes] | None = None
    """a watchdog outside the virtual cluster"""
    proxy: Process | None = None
    names: Process | None = None
    proxy_api: str = ""
    observed: bool = False
    """whether the run came to its end with all its instruments: only then its last proofs are worth waiting for"""
    reverted: dict[str, Any] | None = field(default=None)

    @property
    def config(self) -> JobConfig:
        """The job's configuration."""
        return job_config(self.plan["job"])

    @property
    def outside(self) -> str:
        """Where the lab's own processes stand: beside the virtual hosts, or on the one host there is."""
        return "" if self.plan["place"] == "virtual-cluster" else "localhost"

    def instruments(self) -> dict[str, Process | subprocess.Popen[bytes]]:
        """The lab's own processes that were started. A run during which one of them ended is no measurement."""
        parts = {name: getattr(self, name) for name in ("injector", "watchdog", "guard", "sampler", "proxy", "names")}
        return {name: process for name, process in parts.items() if process is not None}

    def at(self) -> Place:
        """The place, once it is open."""
        assert self.place is not None
        return self.place


def launch(plan: Plan) -> Experiment:
    """Start everything a run needs, the job last. If any of it fails, what was started is ended before the error is raised.

    Raises LabError or PlaceError with one sentence, OSError for a full disk.
    """
    from tasks.revert import revert

    paths = run_paths(new_run_id()).create()
    experiment = Experiment(plan, paths)
    try:
        write_plan(experiment)
        open_site(experiment)
        start_hands(experiment)
        _start_sampler(experiment)
        assert experiment.job is not None
        experiment.job.start(stage_socket=experiment.at().scratch / "stage")
    except BaseException:
        revert(experiment)
        raise
    return experiment


def write_plan(experiment: Experiment) -> None:
    plan = experiment.plan
    start_manifest(
        experiment.paths,
        profile=plan["profile"],
        workload=plan["job"]["workload"],
        posture=plan["posture"],
        place=plan["place"],
    )
    save_plan(experiment.paths, plan)


def open_site(experiment: Experiment) -> None:
    """The place, its relays where it needs them, the name table, and the cluster the job's workers are placed on."""
    plan, paths, config = experiment.plan, experiment.paths, experiment.config
    disk = Disk(paths.recover, plan["disk_mib"]) if plan["disk_mib"] else None
    experiment.place = place = open_place(plan["place"], component_hosts(config, plan["place"]), disk, names=plan["names"])
    experiment.job = NativeJob(place, paths, config, ray_metrics="ray" in plan["sources"])
    dial = None
    if place.kind == "plain-host":
        relays = start_proxies(place, job_links(experiment.job.direct_table()), log=paths.lab_logs / "proxy.log")
        experiment.proxy, experiment.proxy_api, dial = relays.process, relays.api, relays.dial
    elif plan["names"]:
        dial = _start_names(experiment)
    experiment.job.prepare(dial)


def _start_names(experiment: Experiment) -> dict[str, str]:
    """The job's name server, and what each link is to dial: names instead of addresses."""
    place, log = experiment.at(), experiment.paths.lab_logs / "names.log"
    assert experiment.job is not None
    links = job_links(experiment.job.direct_table())
    told = place.scratch / "names.json"
    told.write_text(json.dumps({host_name(link.dst): place.component_address(link.dst) for link in links}))
    where = f"{BRIDGE_ADDRESS}:{DNS_PORT}"
    experiment.names = place.spawn(entry("injection.names", place.scratch, where, told, folder=place.scratch), host="", log=log)
    wait_for("it answered", lambda: says(log, "ready"), [Watched("the name server", experiment.names, (log,))], READY_S)
    return {link.name: f"{host_name(link.dst)}:{link.address.rsplit(':', 1)[1]}" for link in links}


def start_hands(experiment: Experiment) -> None:
    """Injector and watchdogs, at once: one that is killed while it starts is outlived by the other. All stand on return.

    A watchdog must outlive the injector; on the plain host it must outlive the place as well, so it is nobody's child there.
    The virtual cluster takes faults and watchdog along, but not what is the machine's (control groups): for that is the guard.
    """
    paths, place = experiment.paths, experiment.at()
    logs = {name: paths.lab_logs / f"{name}.log" for name in ("injector", "watchdog", "guard")}
    argv = entry("injection.injector", _injector_spec(experiment), folder=place.scratch)
    experiment.injector = injector = place.spawn(argv, host=experiment.outside, log=logs["injector"])
    about = journal_dir(), paths.run_id, float(experiment.plan["lease_s"])
    if place.kind == "virtual-cluster":
        run = ("--journal", about[0], "--run", about[1], "--lease", about[2], "--watch", injector.pid)
        argv = entry("injection.watchdog", *run, folder=place.scratch)
        experiment.watchdog = place.spawn(argv, host=experiment.outside, log=logs["watchdog"])
        experiment.guard = outliving(*about, [os.getpid()], logs["guard"])
    else:
        experiment.watchdog = outliving(*about, [injector.pid, os.getpid()], logs["watchdog"])
    hands = {name: process for name, process in experiment.instruments().items() if name in logs}
    watched = [Watched(f"the {name}", process, (logs[name],)) for name, process in hands.items()]
    wait_for("it stood", lambda: all(says(logs[name], "ready") for name in hands), watched, READY_S)


def _injector_spec(experiment: Experiment) -> Path:
    plan, paths, place = experiment.plan, experiment.paths, experiment.at()
    spec = {
        "run_id": paths.run_id,
        "faults": plan["faults"],
        "socket": str(place.scratch / "stage"),
        "registry_dir": str(paths.registry),
        "addresses": str(paths.addresses),
        "stats_dir": str(paths.stats),
        "journal_dir": str(journal_dir()),
        "history": str(paths.history),
        "place": plan["place"],
        "proxy_api": experiment.proxy_api,
        "barrier_hold_s": plan["barrier_hold_s"],
        "lease_s": plan["lease_s"],
    }
    path = paths.truth / "injector.json"
    path.write_text(json.dumps(spec, indent=2) + "\n")
    return path


def _start_clocks(experiment: Experiment) -> dict[str, str]:
    """On each host a clock that can be asked, where the plan wants that; what else the host runs does not matter to it."""
    place = experiment.at()
    hosts = place.hosts if "clock" in experiment.plan["sources"] else ()
    where = {host: f"{place.host_address(host)}:{CLOCK_PORT}" for host in hosts}
    for host, address in where.items():
        argv = entry("telemetry.clock", address, folder=place.scratch)
        place.spawn(argv, host=host, log=experiment.paths.lab_logs / "clock.log")
    return where


def _start_sampler(experiment: Experiment) -> None:
    paths = experiment.paths
    spec = {
        "clocks": _start_clocks(experiment),
        "ray": experiment.job.ray_nodes() if experiment.job else {},
        "registry": str(paths.registry),
        "out": str(paths.table("metrics")),
        "hz": experiment.plan["sample_hz"],
        "sources": experiment.plan["sources"],
        "sync_every_s": experiment.plan.get("sync_every_s", 10.0),
        "addresses": str(paths.addresses),
        "folders": [str(paths.job), str(paths.recover)],
        "checkpoints": str(paths.recover),
    }
    path = paths.truth / "sampler.json"
    path.write_text(json.dumps(spec) + "\n")
    argv = entry("telemetry.sampler", path, folder=experiment.at().scratch)
    experiment.sampler = experiment.at().spawn(argv, host=experiment.outside, log=paths.lab_logs / "sampler.log")
