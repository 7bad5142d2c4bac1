"""``first-error``: the earliest error in any log of the tier, on the thought that causes come before effects."""

from __future__ import annotations

from diagnosis.clues import causes, named_components, stages_in_force, suggested_kinds, told_stage
from diagnosis.reader import EvidenceReader, LogRecord
from diagnosis.vocabulary import Vocabulary
from storage.records import Diagnosis


def diagnose(reader: EvidenceReader, vocabulary: Vocabulary) -> Diagnosis:
    """Blames the component whose log holds the earliest error, at the stage the controller was in; no error means no fault."""
    logs = {path: reader.records(path) for path in reader.logs()}
    errors = [record for records in logs.values() for record in records if record.is_error]
    if not errors:
        return Diagnosis(fault=False, ranked=(), reason="no error in any log")
    first = min(errors, key=lambda record: (record.time, record.path, record.line))
    [controller_log] = [records for path, records in logs.items() if path.startswith("t0/")]
    stage = told_stage(first.text) or _stage_at(first.time, controller_log)
    suspects = _suspects(first, vocabulary)
    ranked = causes(suspects, stage, suggested_kinds(first.text, vocabulary))
    reason = f"first error, {first.path} line {first.line}: {first.text[:200]}"
    return Diagnosis(fault=True, ranked=ranked, chain=suspects[:1], reason=reason)


def _stage_at(time: str, controller_log: list[LogRecord]) -> str:
    """The stage in force at a time of the case clock."""
    in_time = sorted(
        (record for record in controller_log if record.time <= time), key=lambda record: (record.time, record.line)
    )
    stages = [stage for _, stage in stages_in_force(in_time)]
    return stages[-1] if stages else "init"


def _suspects(record: LogRecord, vocabulary: Vocabulary) -> tuple[str, ...]:
    """A worker's own error accuses the worker first; the controller only reports, so it accuses whom it names first."""
    named = named_components(record.text, vocabulary)
    reports = vocabulary.roles.get(record.owner) == "controller"
    return (*named, record.owner) if reports else (record.owner, *named)
