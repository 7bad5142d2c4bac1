"""The injector's diary: what it saw and did, append-only, and the receipts in it."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

from injection.fault import Measurement
from storage.records import Receipt, StageEvent, to_dict


def receipt(fault_id: str, about: str, found: Measurement) -> Receipt:
    """A measurement as proof; `about` is `applied` or `gone`."""
    return Receipt(fault_id, about, found.ok, found.probe, found.measured, time.time(), time.monotonic())


class History:
    """`truth/history.jsonl`. Safe to share between threads; a line is either whole or not there."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")
        self._turn = threading.Lock()

    def event(self, event: StageEvent) -> None:
        """What the job announced. Flushed only: there are many, and nothing depends on the last one."""
        fields = to_dict(event)
        self._write({"wall_s": fields.pop("wall_s"), "mono_s": fields.pop("mono_s"), "what": "event", "fault_id": "", **fields})

    def state(self, what: str, fault_id: str, **fields: Any) -> None:
        """A fault's new state, on disk when this returns. `mono_s` may be given where it was taken earlier."""
        self._write(
            {"wall_s": time.time(), "mono_s": time.monotonic(), "what": what, "fault_id": fault_id, **fields}, durable=True
        )

    def proof(self, what: str, fault_id: str, found: Measurement) -> None:
        """A receipt: `what` is `verified` (the fault took effect) or `gone`."""
        proof = to_dict(receipt(fault_id, "applied" if what == "verified" else what, found))
        self.state(what, fault_id, ok=found.ok, receipt=proof)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, line: dict[str, Any], *, durable: bool = False) -> None:
        with self._turn:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
            if durable:
                os.fsync(self._file.fileno())
