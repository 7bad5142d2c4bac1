"""What truly happened in a run: where the fault was, where the error came out, and whether the run counts.

Pure functions from a run's own records (plan, history of the seam and of injection, log rows) to plain JSON types. Nothing
here knows a path; `tasks.outcome` loads the records. Times are wall-clock seconds unless a name says otherwise.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from storage.records import FaultKind, Phase, Role, Stage

Record = dict[str, Any]

#: The place of each stage in a step; distances between stages are counted along it. Reward is part of rollout.
PLACE_IN_STEP = {str(stage): place for place, stage in enumerate(stage for stage in Stage if stage != Stage.REWARD)}
PLACE_IN_STEP[str(Stage.REWARD)] = PLACE_IN_STEP[str(Stage.ROLLOUT)]
#: What every fault of a valid run has behind it, in the order in which it happens.
PROOF = {"fired": "never fired", "applied": "was not applied", "verified": "was not verified", "gone": "is not proven gone"}
#: An error class somewhere in a line; and at its start, as the last line of a traceback has it.
_NAMED = re.compile(r"\w(?:Error|Exception)\b")
_RAISED = re.compile(r"[\w.]*(?:Error|Exception)\b")
_ERROR_LEVELS = ("ERROR", "CRITICAL")


def role_of(component: str) -> str:
    """The role in a component's name: ``train0`` -> ``train``."""
    return component.rstrip("0123456789")


def seam_events(history: Iterable[Record]) -> list[Record]:
    """The announcements of the seam within a history, by time; lines that lack a field are left out."""
    needed = {"wall_s", "mono_s", "component", "step", "stage", "phase"}
    events = [line for line in history if line.get("what") == "event" and needed <= line.keys()]
    return sorted(events, key=lambda line: float(line["mono_s"]))


def stage_at(events: Sequence[Record], wall_s: float) -> tuple[str, int]:
    """Stage and step the controller was in at `wall_s`: the last one entered. ("", -1) before the first.

    What is logged between the end of a stage and the next one belongs to the stage that ended: it tells its result.
    """
    current = ("", -1)
    for event in events:
        if event["wall_s"] > wall_s:
            break
        if event["component"] == Role.CONTROLLER and event["phase"] == Phase.ENTER:
            current = (str(event["stage"]), int(event["step"]))
    return current


def errors_of(history: Sequence[Record], logs: Iterable[Record]) -> list[Record]:
    """Every error of the job, by time: ERROR lines of all logs and error announcements of the seam."""
    events = seam_events(history)
    by_wall = sorted(events, key=lambda event: float(event["wall_s"]))
    found = [_announced(event) for event in events if event["phase"] == Phase.ERROR]
    found += [_logged(row, by_wall) for row in logs if row.get("level") in _ERROR_LEVELS]
    return sorted(found, key=lambda error: (error["wall_s"], error["source"] == "seam"))


def _announced(event: Record) -> Record:
    text = str((event.get("attrs") or {}).get("error", ""))
    return _error(event, str(event["stage"]), int(event["step"]), text, "seam")


def _logged(row: Record, events: Sequence[Record]) -> Record:
    stage, step = stage_at(events, float(row["wall_s"]))
    told_step = row.get("step")
    told_step = step if told_step is None or told_step < 0 else int(told_step)
    return _error(row, row.get("stage") or stage, told_step, str(row.get("message") or ""), "log")


def _error(row: Record, stage: str, step: int, text: str, source: str) -> Record:
    component = str(row.get("component") or "")
    return {
        "component": component,
        "role": role_of(component),
        "stage": stage,
        "step": step,
        "wall_s": float(row["wall_s"]),
        "text": text,
        "source": source,
    }


def final_error(errors: Sequence[Record]) -> Record | None:
    """How the controller ended: the stage its last announced error names, and the text of the exception that ended it.

    Errors of the cleanup cover that one, for whoever reads the log from its end meets them first; unless the last of them names
    it again.
    ``seen_on`` is the component with the first error in that stage and step: who told the controller.
    """
    announced = [error for error in errors if error["source"] == "seam" and error["role"] == Role.CONTROLLER]
    lines = [error for error in errors if error["source"] == "log" and error["role"] == Role.CONTROLLER]
    if not announced and not lines:
        return None
    covering = [line for line in lines if line["stage"] == Stage.CLEANUP]
    if announced and covering and headline(announced[-1]["text"]) in covering[-1]["text"]:
        covering = []
    last = (covering or announced or lines)[-1]
    there = [error for error in errors if (error["stage"], error["step"]) == (last["stage"], last["step"])]
    return {**last, "text": headline(last["text"]) or exception_text(lines), "seen_on": there[0]["component"]}


def headline(text: str, limit: int = 240) -> str:
    """The telling line of an error, cut at `limit` characters: its first line if that names an error class, otherwise the last
    line that does (the end of a traceback), otherwise the first.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return ""
    telling = [line for line in lines[1:] if _RAISED.match(line)]
    line = lines[0] if _NAMED.search(lines[0]) or not telling else telling[-1]
    line = line.removeprefix("Exception: ")
    return line if len(line) <= limit else line[: limit - 1] + "…"


def exception_text(lines: Sequence[Record]) -> str:
    """The last exception a log shows: that of its last traceback, or its last error line."""
    traced = [line for line in lines if "Traceback (most recent call last)" in line["text"]]
    return headline((traced or list(lines))[-1]["text"]) if lines else ""


def root_of(plan: Record, history: Sequence[Record]) -> Record | None:
    """Where the earliest fault truly was: component, stage, step, all kinds, the instant it took hold. None without one.

    What a decoy does is no fault.
    """
    faults = [fault for fault in plan.get("faults", []) if fault.get("kind") != FaultKind.NOOP]
    if not faults or plan.get("decoy"):
        return None
    expected = (plan.get("expected") or {}).get("root") or {}
    fired = {line.get("fault_id"): line for line in reversed(history) if line.get("what") == "fired"}
    first = min(faults, key=lambda fault: float(fired.get(fault["id"], {}).get("mono_s", math.inf)))
    point, target = fired.get(first["id"], {}), first.get("target") or {}
    applied = next((line for line in history if line.get("what") == "applied" and line.get("fault_id") == first["id"]), None)
    return {
        "component": expected.get("component") or target.get("component") or target.get("src") or "",
        "stage": expected.get("stage") or point.get("stage") or (first.get("trigger") or {}).get("stage", ""),
        "step": int(point.get("step", (first.get("trigger") or {}).get("step", -1))),
        "kinds": [str(fault["kind"]) for fault in faults],
        "target": target_name(target),
        "wall_s": float(applied["wall_s"]) if applied else None,
        "mono_s": float(applied["mono_s"]) if applied else None,
    }


def target_name(target: Record) -> str:
    """A target in one word: ``rollout1``, or ``train0>metaserver:weights`` for a link."""
    if target.get("type") == "link":
        return f"{target.get('src')}>{target.get('dst')}:{target.get('purpose')}"
    return str(target.get("component", ""))


def hop_of(root: Record | None, final: Record | None, errors: Sequence[Record]) -> Record | None:
    """How far the error came out from the fault: in stages, in steps, and in seconds of the logs."""
    if root is None or final is None:
        return None
    controller = [e for e in errors if e["source"] == "log" and e["role"] == Role.CONTROLLER]
    at_root = [e for e in errors if e["component"] == root["component"] and e["source"] == "log"]
    after = [e for e in errors if root["wall_s"] is not None and e["wall_s"] >= root["wall_s"]]
    start, end = PLACE_IN_STEP.get(root["stage"]), PLACE_IN_STEP.get(final["stage"])
    return {
        "from": root["stage"],
        "to": final["stage"],
        "crossed": root["stage"] != final["stage"],
        "stage_distance": end - start if start is not None and end is not None else None,
        "step_distance": final["step"] - root["step"] if final["step"] >= 0 and root["step"] >= 0 else None,
        "log_gap_s": controller[-1]["wall_s"] - at_root[0]["wall_s"] if controller and at_root else None,
        "fault_to_error_s": after[0]["wall_s"] - root["wall_s"] if after else None,
    }


def expected_of(plan: Record, errors: Sequence[Record], survival: Record) -> Record | None:
    """Whether it came out as the scenario says of this arm, part by part. None where nothing is said (arms without a fault).

    Of an error, ``came_true`` asks for one with that stage, role and text; three errors with one part each do not make it.
    Where the job is to survive, `survival` holds the parts.
    """
    claims = plan.get("expected") or {}
    if claims.get("survives"):
        return {"survives": True, "parts": dict(survival), "came_true": all(survival.values())}
    want = claims.get("error")
    if not want or all(fault.get("kind") == FaultKind.NOOP for fault in plan.get("faults", [])):
        return None
    tests: dict[str, Callable[[Record], bool]] = {
        "stage": lambda error: not want.get("stage") or error["stage"] == want["stage"],
        "role": lambda error: not want.get("role") or error["role"] == want["role"],
        "text": lambda error: str(want.get("text") or "") in error["text"],
    }
    parts = {name: any(test(error) for error in errors) for name, test in tests.items()}
    together = any(all(test(error) for test in tests.values()) for error in errors)
    return {**{key: want.get(key, "") for key in ("stage", "role", "text")}, "parts": parts, "came_true": together}


def survival_of(plan: Record, done: int, final: Record | None, counted: Sequence[Record]) -> Record:
    """What surviving a fault takes: every step done, the job not ended by an error, in no step a sample lost or invented.

    `counted` are the figures `batch_samples` that the controller told, one a step that was trained on.
    """
    job = plan.get("job") or {}
    planned = int(job.get("steps", 0))
    whole = float(job.get("prompts_per_step", 0)) * float(job.get("samples_per_prompt", 0))
    told = sorted((int(row["step"]), float(row["value"])) for row in counted)
    return {
        "steps": 0 < planned == done,
        "error": final is None,
        "samples": told == [(step, whole) for step in range(planned)],
    }


def progress_of(events: Sequence[Record]) -> int:
    """Training steps the controller completed: steps whose train stage was left without an error."""
    done = {e["step"] for e in events if e["component"] == Role.CONTROLLER and (e["stage"], e["phase"]) == ("train", "exit")}
    return len(done)


def impact_of(steps_done: int, steps_planned: int, final: Record | None, errors: Sequence[Record]) -> str:
    """What it did to the job: ``failed``, ``degraded`` (all steps done, with errors), ``none``, or ``unknown``."""
    announced = any(error["source"] == "seam" and error["role"] == Role.CONTROLLER for error in errors)
    if announced or (steps_done < steps_planned and final is not None):
        return "failed"
    if steps_done < steps_planned or steps_planned <= 0:
        return "unknown"
    return "degraded" if errors else "none"


def invalid_because(plan: Record, history: Sequence[Record]) -> list[str]:
    """Why a run does not count; empty for a valid one. Every fault must have fired, been applied, verified, and be gone."""
    reasons = [str(line.get("reason")) for line in history if line.get("what") == "invalid" and not line.get("fault_id")]
    for fault in plan.get("faults", []):
        lines = [line for line in history if line.get("fault_id") == fault["id"]]
        if fault.get("may_expire") and any(line.get("what") == "expired" for line in lines):
            continue
        what = {str(line.get("what")) for line in lines if _ok(line)}
        name = f"fault {fault['id']} ({fault['kind']})"
        bad = sorted({str(line["what"]) for line in lines} & {"expired", "stuck", "invalid"})
        reasons += [f"{name} {word}{_reason(lines, word)}" for word in bad]
        missing = next((sentence for word, sentence in PROOF.items() if word not in what), None) or _unequal(lines)
        if missing and not bad:
            reasons.append(f"{name} {missing}")
    return reasons


def _unequal(lines: Sequence[Record]) -> str | None:
    """A fault that comes again and again must be applied, proved and gone as often as it fired."""
    times = {word: sum(line.get("what") == word and _ok(line) for line in lines) for word in PROOF}
    fired = times["fired"]
    fewer = next((word for word, count in times.items() if count < fired), None)
    return f"fired {fired} times, but is {fewer} only {times[fewer]} times" if fewer else None


def _ok(line: Record) -> bool:
    receipt = line.get("receipt")
    return bool(receipt.get("ok", True)) if isinstance(receipt, dict) else bool(line.get("ok", True))


def _reason(lines: Sequence[Record], word: str) -> str:
    reason = next((line.get("reason") for line in lines if line.get("what") == word and line.get("reason")), "")
    return f": {' '.join(str(reason).split())}" if reason else ""
