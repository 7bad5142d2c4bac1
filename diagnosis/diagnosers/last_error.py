"""``last-error``: what a hurried reader does: scroll to the end of the controller's log and blame what stands there."""

from __future__ import annotations

from diagnosis.clues import causes, named_components, says_something, stages_in_force, suggested_kinds, told_stage
from diagnosis.reader import EvidenceReader
from diagnosis.vocabulary import Vocabulary
from storage.records import Diagnosis


def diagnose(reader: EvidenceReader, vocabulary: Vocabulary) -> Diagnosis:
    """Blames the component and stage of the last error line in the controller's log; no error there means no fault.

    A line that merely says that something went wrong is passed over; a traceback counts only where no line is an error.
    """
    [path] = [path for path in reader.logs() if path.startswith("t0/")]
    errors = [(record, stage) for record, stage in stages_in_force(reader.records(path)) if record.is_error]
    if not errors:
        return Diagnosis(fault=False, ranked=(), reason="no error in the controller's log")
    logged = [(record, stage) for record, stage in errors if record.logged_as_error]
    telling = [(record, stage) for record, stage in logged if says_something(record.text, vocabulary)]
    record, stage = (telling or logged or errors)[-1]
    suspects = named_components(record.text, vocabulary) or (record.owner,)
    ranked = causes(suspects, told_stage(record.text) or stage, suggested_kinds(record.text, vocabulary))
    reason = f"last error, {path} line {record.line}: {record.text[:200]}"
    return Diagnosis(fault=True, ranked=ranked, chain=suspects[:1], reason=reason)
