"""Seal a run: write its label from the plan, build the evidence, commit to the label. Everything after this is blind."""

from __future__ import annotations

import random
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diagnosis.case import build_case, neutral_names
from diagnosis.copying import CaseSource
from diagnosis.topology import read_topology
from injection.virtual.addresses import host_addresses
from injection.virtual.cluster import HOSTS
from storage import truth
from storage.layout import RunPaths
from storage.reader import read_table
from storage.records import FaultKind, Label, to_dict
from storage.schemas import METRICS
from storage.seal import commit, new_salt, sha256_file
from tasks.healthy import healthy_runs


class NotSealableError(ValueError):
    """The run is not valid: what its label would say did not happen. The message says what is missing."""


NO_FAULT = Label(fault=False, component="", stage="", kinds=())


def seal_run(paths: RunPaths, known: Sequence[RunPaths] | None = None) -> dict[str, Any]:
    """Build ``evidence/`` of a finished run and return its manifest; label, salt and names go to the truth.

    Healthy runs among ``known`` (default: all beside it) come along (`tasks.healthy`). Raises NotSealableError for a run whose
    planned faults did not all happen (its label would be false), FileExistsError for a run that is sealed already,
    FileNotFoundError for a run without plan or name table.
    """
    plan = truth.load_plan(paths)
    history = truth.load_history(paths)
    problems = unproven(plan, history)
    if problems:
        raise NotSealableError(f"run {paths.run_id} cannot be sealed: {'; '.join(problems)}")
    if paths.evidence.exists():
        raise FileExistsError(f"run {paths.run_id} is sealed already")
    source = _source(paths, plan)
    # Names and clock come from the system's entropy: the plan's seed is short enough to be tried out.
    draw = random.Random(secrets.randbits(128))  # noqa: S311 - seeded with 128 secret bits
    names = neutral_names(source.topology, draw)
    label, salt = label_of(plan, history), new_salt()
    truth.save_label(paths, label)
    truth.save_salt(paths, salt)
    truth.save_names(paths, dict(names.components))
    healthy = [_source(run, truth.load_plan(run)) for run in healthy_runs(paths, plan, known)]
    return build_case(source, healthy, names, paths.evidence, lambda manifest: commitment(label, salt, manifest), draw)


def _source(paths: RunPaths, plan: dict[str, Any]) -> CaseSource:
    """The raw side of a run."""
    own = host_addresses(HOSTS) if plan.get("place") == "virtual-cluster" else {}
    return CaseSource(
        paths.job,
        paths.logs,
        read_topology(paths.registry, paths.addresses, own),
        strange=(paths.run_id, plan["scenario"]),
        run_id=paths.run_id,
        metrics=read_table(paths.table("metrics"), METRICS)[0].to_pylist(),
    )


def commitment(label: Label, salt: str, manifest: Path) -> str:
    """The commitment binds the label to this very evidence, so that label and salt of another case do not fit it."""
    return commit(committed(label, manifest), salt)


def committed(label: Label, manifest: Path) -> dict[str, Any]:
    """What is committed to: the label and the hash of the case's manifest (which holds the hash of every file)."""
    return {**to_dict(label), "manifest_sha256": sha256_file(manifest)}


def label_of(plan: dict[str, Any], history: list[dict[str, Any]]) -> Label:
    """The answer of the case: what the first real fault to fire hit, and where; the kinds of all; no fault if all are no-ops.

    A decoy is no fault either, whatever was done. Where the plan says in which stage the damage is rooted, that stage
    counts: a trigger at the exit of one stage may be meant for the next.
    """
    faults = [fault for fault in plan["faults"] if fault["kind"] != FaultKind.NOOP]
    if not faults or plan.get("decoy"):
        return NO_FAULT
    fired = {line["fault_id"]: line for line in reversed(history) if line["what"] == "fired"}
    root = min(faults, key=lambda fault: float(fired[fault["id"]]["mono_s"]))
    point = {**root["trigger"], **fired[root["id"]]}
    target = root["target"]
    return Label(
        fault=True,
        component=target["src"] if target["type"] == "link" else target["component"],
        stage=(plan.get("expected") or {}).get("root", {}).get("stage") or point["stage"],
        kinds=tuple(sorted({fault["kind"] for fault in faults})),
        peer=target["dst"] if target["type"] == "link" else "",
        step=int(point["step"]),
    )


def unproven(plan: dict[str, Any], history: list[dict[str, Any]]) -> list[str]:
    """What keeps the run from being valid, one sentence each: a fault not fired, not applied, not verified or not gone."""
    problems = [str(line.get("reason")) for line in history if line.get("what") == "invalid" and not line.get("fault_id")]
    for fault in plan["faults"]:
        lines = [line for line in history if line.get("fault_id") == fault["id"]]
        told = {line["what"] for line in lines if line.get("ok", True)}
        if fault.get("may_expire") and "expired" in told:
            continue
        missing = [what for what in ("fired", "applied", "verified", "gone") if what not in told]
        if missing:
            problems.append(f"fault {fault['id']} was not {' and not '.join(missing)}")
        problems += [f"fault {fault['id']} is {what}" for what in ("expired", "stuck", "invalid") if what in told]
    return problems
