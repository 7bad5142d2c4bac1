"""Undoing from the journal alone: what the watchdog does for a dead injector, and every start does for a dead machine."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from injection import journal, procfs
from injection.fault import Ask, Measurement
from injection.journal import Record, State
from injection.measure import ask_here
from injection.registry import FAULTS, UNDONE_FIRST
from storage.records import FaultKind


@dataclass(frozen=True)
class Outcome:
    """What became of one record: `gone` (the kernel took it), `reverted`, or `stuck` with the reason."""

    run_id: str
    fault_id: str
    kind: str
    outcome: str
    reason: str

    def __str__(self) -> str:
        """As a person reads it."""
        reason = f" ({self.reason})" if self.reason else ""
        return f"{self.kind or 'record'} {self.fault_id} of run {self.run_id}: {self.outcome}{reason}"


def revert_record(folder: Path, record: Record, ask: Ask = ask_here) -> tuple[Record, Measurement]:
    """Undo one fault and prove it gone; legal from every state, again and again. The record ends as reverted or stuck.

    A journal that cannot be written (a full disk) keeps nobody from undoing: the next sweep undoes it once more.
    """
    record = _note(folder, record, State.REVERTING)
    kind = FAULTS[FaultKind(record.kind)]
    try:
        kind.revert(record.undo)
        found: Measurement = kind.gone(record.undo, ask)
    except Exception as error:  # whatever went wrong, what may be left behind must be shown
        reason = f"{type(error).__name__}: {error}"
        found = Measurement(ok=False, probe="none", measured={"reason": reason})
        return _note(folder, record, State.STUCK, reason), found
    if not found.ok:
        return _note(folder, record, State.STUCK, f"still there after reverting: {found.measured}"), found
    return _note(folder, record, State.REVERTED), found


def _note(folder: Path, record: Record, state: State, reason: str = "") -> Record:
    try:
        return journal.advance(folder, record, state, reason)
    except OSError:
        return replace(record, state=state, reason=reason)


def in_order(folder: Path, records: Iterable[Record]) -> list[Record]:
    """As they are to be undone: first what others may wait for, then the latest first, as each restores what it found."""
    return sorted(records, key=lambda one: (one.kind not in UNDONE_FIRST, -journal.stamp(folder, one)[1]))


def sweep(folder: Path) -> list[Outcome]:
    """Close every record of the journal. Afterwards only stuck ones are left in it; a second sweep finds nothing else."""
    outcomes, readable = [], []
    for path in sorted(folder.glob("*.json")):
        try:
            readable.append(journal.read(path))
        except ValueError as error:
            outcomes.append(Outcome(path.name.split(".")[0], "", "", "stuck", str(error)))
    outcomes += [_close(folder, record) for record in in_order(folder, readable)]
    for leftover in (*folder.glob("*.lease*"), *folder.glob("*.tmp")):
        if not any(folder.glob(f"{leftover.name.split('.')[0]}.*.json")):
            leftover.unlink(missing_ok=True)
    return outcomes


def _close(folder: Path, record: Record) -> Outcome:
    outcome, reason = undo(folder, record)
    if outcome != "stuck":
        journal.forget(folder, record)
    return Outcome(record.run_id, record.fault_id, record.kind, outcome, reason)


def undo(folder: Path, record: Record) -> tuple[str, str]:
    """What becomes of a record, and why: `gone`, `reverted` or `stuck`; one of another PID namespace is the kernel's matter."""
    if record.state == State.REVERTED:
        return "reverted", "reverted before"
    restarted = record.boot_id != procfs.boot_id()
    lasts = record.undo.get("lasts")  # a damaged file; processes, rules and limits do not
    if restarted and not lasts:
        return "gone", "the machine was restarted since"
    if not restarted and record.pid_namespace != procfs.namespace_inode("self", "pid"):
        if procfs.pid_namespace_lives(record.pid_namespace):
            return "stuck", "its virtual cluster is still up; the fault goes when that ends"
        if not (lasts or record.undo.get("outlives")):  # a control group is the machine's, and still there
            return "gone", "its virtual cluster has ended"
    after, _ = revert_record(folder, record)
    return ("reverted", "") if after.state == State.REVERTED else ("stuck", after.reason)
