"""Plan: a scenario with every default and every random choice fixed by a seed. It names the fault, so it is truth."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from injection.draw import resolve, resolve_expected
from injection.preflight import best_place
from injection.procfs import identity
from injection.scenario import Scenario, check_scenario, is_control
from injection.scenario import load_scenario as read_scenario
from injection.sweep import PREFIX, sweep_cells
from rlhf.config import HARDENED, JobConfig, Posture, Timeouts, job_config
from storage import truth
from storage.canonical import canonical_bytes
from storage.layout import RunPaths
from storage.records import SCHEMA_VERSION
from tasks.profiles import profile
from telemetry.spec import SOURCES

SCENARIOS = Path(__file__).resolve().parent.parent / "scenarios"

#: A fault outlives its injector by at most this long, plus the watchdog's own few seconds.
LEASE_S = 5.0

Plan = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One run of a matrix, before it is planned."""

    scenario: str
    arm: str
    seed: int
    profile: str

    @property
    def name(self) -> str:
        """How a person reads it."""
        return f"{Path(self.scenario).stem} / {self.arm} / seed {self.seed}"


def shipped_scenarios() -> tuple[str, ...]:
    """The names of the scenarios that come with the lab."""
    return tuple(sorted(path.stem for path in SCENARIOS.glob("*.yaml")))


def scenario_path(name: str) -> Path:
    """A scenario's file, from a path or from the name of one that is shipped."""
    given = Path(name)
    if given.suffix in (".yaml", ".yml"):
        if not given.is_file():
            raise ValueError(f"no such scenario file: {given}")
        return given
    shipped = SCENARIOS / f"{name}.yaml"
    if not shipped.is_file():
        known = ", ".join(shipped_scenarios())
        others = f"or a cell of the sweep ({PREFIX}...), or give a path ending in .yaml"
        raise ValueError(f"unknown scenario {name!r}; known: {known} ({others})")
    return shipped


def load_scenario(name: str | Path, workload: str | None = None) -> Scenario:
    """Read and check a scenario by name or path; every mistake is a ValueError naming key, file and line.

    A cell of the sweep is checked like a file. With another `workload` than its own a scenario is refused where it uses a
    stage or a worker that this one does not have.
    """
    job_keys, timeouts = ([field.name for field in fields(kind)] for kind in (JobConfig, Timeouts))
    words = (job_keys, timeouts, posture_switches, workload, SOURCES)
    if cell := sweep_cells().get(str(name)):
        return check_scenario(cell.scenario(), {(): 1}, Path(cell.name), *words)
    return read_scenario(scenario_path(str(name)), *words)


def posture_switches(told: dict[str, Any]) -> dict[str, Any]:
    """Every switch of a posture that a scenario describes: those it names, on top of its `base` (legacy where it has none).

    Raises ValueError, in one sentence, for a switch or a word that does not exist.
    """
    bases = {"legacy": Posture(), "hardened": HARDENED}
    base = told.get("base", "legacy")
    if base not in bases:
        raise ValueError(f"base is {base!r}; allowed: {', '.join(bases)}")
    switches = {**asdict(bases[base]), **{name: value for name, value in told.items() if name != "base"}}
    return asdict(job_config({"posture": switches}).posture)


def make_plan(scenario: Scenario, arm: str, seed: int, profile_name: str = "smoke", place: str | None = None) -> Plan:
    """Fix everything that is still open. Arms of one scenario and seed differ in the faults' kinds and the posture alone.

    The control of an arm's posture is an arm, too, listed or not.
    """
    if not scenario.has_arm(arm):
        raise ValueError(f"scenario {scenario.name!r} has no arm {arm!r}; it has: {', '.join(scenario.arms)}")
    posture, size = scenario.posture_of(arm), profile(profile_name)
    job = job_config({**size.job, **job_of(scenario, posture), "seed": seed})
    where = place or best_place()
    faults = resolve(
        scenario,
        job=asdict(job),
        timeout_s=job.timeout_s,
        shard_bytes=job.parameter_bytes / job.train_workers,
        seed=seed,
        arm=arm,
    )
    return {
        "schema_version": SCHEMA_VERSION,
        "scenario": scenario.name,
        "arm": arm,
        "decoy": scenario.decoy and not is_control(arm),
        "profile": profile_name,
        "posture": posture,
        "seed": seed,
        "place": where,
        "job": asdict(job),
        "barrier_hold_s": size.hold_s,
        "lease_s": LEASE_S,
        "observe_timeout_s": observe_timeout_s(job),
        "warmup_steps": size.warmup_steps,
        "disk_mib": scenario.own_disk_mib,
        "names": scenario.by_name,
        "sources": list(size.sources if scenario.sources is None else scenario.sources),
        "sample_hz": scenario.sample_hz or size.sample_hz,
        "sync_every_s": size.sync_every_s,
        "faults": faults,
        "expected": resolve_expected(scenario, faults, arm),
    }


def job_of(scenario: Scenario, posture: str) -> dict[str, Any]:
    """What a scenario says of the job, in one of its postures. The supervised workload has train workers alone."""
    alone = {"rollout_workers": 0, "reference_workers": 0} if scenario.workload == "sft" else {}
    switches = posture_switches(scenario.postures.get(posture, {"base": posture}))
    return {"workload": scenario.workload, **alone, **scenario.job, "posture": switches}


def observe_timeout_s(job: JobConfig) -> float:
    """How long a job may take before it is called hung: start-up, ten seconds a step, its longest time-outs once each."""
    longest = sum(job.timeout_s(name) for name in ("rpc", "update_weights", "train_batch", "event"))
    return 90.0 + 10.0 * job.steps + longest + 3 * job.timeout_s("stop_job")


def plan_hash(plan: Plan) -> str:
    """What a matrix resumes by: equal plans have equal hashes."""
    return hashlib.sha256(canonical_bytes(plan)).hexdigest()[:16]


def matrix_cells(
    scenarios: list[str], arms: list[str], repeats: int, baselines: int, seed: int, profile_name: str
) -> list[Cell]:
    """Healthy runs first (the comparison needs them), then every scenario x arm x repeat; seeds follow from `seed`."""
    cells = [Cell("no-fault", "control", seed + index, profile_name) for index in range(baselines)]
    for repeat in range(repeats):
        for name in scenarios:
            has = load_scenario(name).arms
            cells += [Cell(name, arm, seed + repeat, profile_name) for arm in has if not arms or arm in arms]
    return cells


def plan_cell(cell: Cell, place: str | None = None) -> Plan:
    """The plan of one cell of a matrix."""
    return make_plan(load_scenario(cell.scenario), cell.arm, cell.seed, cell.profile, place)


def save_plan(paths: RunPaths, plan: Plan) -> None:
    """Write the plan behind the blind line, and the job's own configuration, which tells nothing, in front of it.

    Beside the plan: this process carries the run. Where it is gone and the manifest says running, the run was killed.
    """
    truth.save_plan(paths, plan)
    truth.save_carrier(paths, asdict(identity(os.getpid())))
    paths.job_config.write_text(json.dumps(plan["job"], indent=2) + "\n")
