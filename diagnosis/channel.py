"""The reader's questions as JSON lines: one request a line, one reply a line, the same for every program.

``{"call": "grep", "pattern": "ERROR", "path": "t0/w-3fa1.log"}`` is answered by ``{"result": ...}`` or, when it is refused, by
``{"error": "...", "kind": "outside" | "value"}``. The calls are those of `diagnosis.reader.Reader`, besides ``case`` (what the
case's manifest tells of vocabularies, topology and clock) and ``submit`` (the answer, once; nothing is answered after it).
Here is the asking end; `diagnosis.serve` is the other.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import IO, Any

from diagnosis.reader import Metric, OutsideTierError, Reader, Sample
from storage.records import Diagnosis

OUTSIDE, VALUE = "outside", "value"


class ChannelReader(Reader):
    """Asks an `EvidenceReader` in another process, over two streams of lines."""

    def __init__(self, replies: IO[str], requests: IO[str]) -> None:
        self._replies, self._requests = replies, requests

    def case(self) -> dict[str, Any]:
        """What the manifest tells a diagnoser: case_id, tier, vocabulary, topology, clock."""
        told: dict[str, Any] = self._ask("case")
        return told

    def submit(self, diagnosis: Diagnosis) -> None:
        """Give the answer. It is the last call."""
        self._ask("submit", answer=asdict(diagnosis))

    def list_files(self) -> list[str]:
        """See `Reader`."""
        return list(self._ask("list_files"))

    def read(self, path: str, start: int = 1, n: int | None = None) -> list[str]:
        """See `Reader`."""
        return list(self._ask("read", path=path, start=start, n=n))

    def tail(self, path: str, n: int) -> list[str]:
        """See `Reader`."""
        return list(self._ask("tail", path=path, n=n))

    def grep(self, pattern: str, path: str) -> list[tuple[int, str]]:
        """See `Reader`."""
        return [(number, line) for number, line in self._ask("grep", pattern=pattern, path=path)]

    def list_metrics(self, run: str = "") -> list[Metric]:
        """See `Reader`."""
        return [Metric(m["metric"], m["unit"], tuple(m["subjects"])) for m in self._ask("list_metrics", run=run)]

    def query_metric(
        self,
        metric: str,
        subject: str = "",
        t0: float | None = None,
        t1: float | None = None,
        every_s: float | None = None,
        run: str = "",
    ) -> list[Sample]:
        """See `Reader`."""
        wanted = {"metric": metric, "subject": subject, "t0": t0, "t1": t1, "every_s": every_s, "run": run}
        return [Sample(**sample) for sample in self._ask("query_metric", **wanted)]

    def _ask(self, call: str, **arguments: Any) -> Any:
        self._requests.write(json.dumps({"call": call, **arguments}, allow_nan=False) + "\n")
        self._requests.flush()
        reply = json.loads(self._replies.readline() or '{"error": "nobody answers", "kind": "value"}')
        if "error" in reply:
            raise (OutsideTierError if reply["kind"] == OUTSIDE else ValueError)(reply["error"])
        return reply["result"]
