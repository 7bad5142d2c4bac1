"""``python -m diagnosis.serve EVIDENCE_DIR TIER BUDGET RESULT``: the answering end of `diagnosis.channel`, a process.

The diagnoser never sees a file of the case: what it learns passes here, and is metered and noted. ``RESULT`` becomes
``{"answer": ..., "meter": ..., "refused": n}``; the notes go beside it (``RESULT.calls.jsonl``). Standard library only.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from diagnosis.channel import OUTSIDE, VALUE
from diagnosis.reader import EvidenceReader, OutsideTierError

#: A request longer than this is no question; an answer that is, is cut here, too.
REQUEST_BYTES = 1 << 20
MEMORY_BYTES = 2 << 30
#: What the manifest tells a diagnoser besides its tier's files.
TOLD = ("case_id", "vocabulary", "topology", "clock")
CALLS = ("list_files", "read", "tail", "grep", "list_metrics", "query_metric")


class Refused(Exception):  # noqa: N818 - an answer to the diagnoser, no failure
    """A request that is not answered; the text says why."""


class Server:
    """Answers requests on one tier until an answer is submitted. ``calls`` and ``bytes`` of the budget are a ceiling."""

    def __init__(self, evidence: Path, tier: str, budget: dict[str, int], notes: IO[str]) -> None:
        self.reader = EvidenceReader(evidence, tier)
        self.answer: Any = None
        self.requests = 0
        self.refused = 0
        self._answered = False
        manifest = json.loads((evidence / "manifest.json").read_text())
        self._told = {"tier": tier, "budget": budget, **{key: manifest[key] for key in TOLD}}
        self._budget, self._notes = budget, notes
        self._begun_s = time.monotonic()

    @property
    def ended(self) -> bool:
        """Whether nothing more is answered: the answer is there, or the refusals themselves are too many."""
        return self._answered or self.requests > 2 * self._budget["calls"]

    def reply(self, line: bytes) -> dict[str, Any]:
        """The reply to one request line. A bad request is told so and costs nothing but a call."""
        call: dict[str, Any] = {}
        self.requests += 1
        try:
            call = _request(line)
            told: dict[str, Any] = {"result": self._do(**call)}
        except OutsideTierError as error:
            told = {"error": str(error), "kind": OUTSIDE}
        except Exception as error:  # whatever a strange request breaks, the next one is answered
            told = {"error": f"{type(error).__name__}: {error}"[:300], "kind": VALUE}
        self.refused += "error" in told
        self._note(call, told)
        return told

    def _do(self, call: str, **arguments: Any) -> Any:
        if call == "case":
            return self._told
        if call == "submit":
            self.answer, self._answered = arguments["answer"], True
            return "taken"
        if call not in CALLS:
            raise Refused(f"no call {call[:60]!r}; there are case, submit, {', '.join(CALLS)}")
        meter = self.reader.meter
        if meter.calls >= self._budget["calls"] or meter.bytes >= self._budget["bytes"]:
            raise Refused("the budget is spent; only submit is answered")
        found = getattr(self.reader, call)(**arguments)
        return [asdict(one) for one in found] if call in ("list_metrics", "query_metric") else found

    def _note(self, call: dict[str, Any], told: dict[str, Any]) -> None:
        """Each call as it was made, and what had been served by then: who read what, when, without what it said."""
        asked = {key: value for key, value in call.items() if key != "answer"}
        spent = self.reader.meter.to_dict()
        line = {"after_s": round(time.monotonic() - self._begun_s, 4), **asked, "error": told.get("error"), "meter": spent}
        self._notes.write(json.dumps(line) + "\n")


def _request(line: bytes) -> dict[str, Any]:
    if not line.endswith(b"\n"):
        raise Refused(f"a request is one line of at most {REQUEST_BYTES} bytes")
    request = json.loads(line)
    if not isinstance(request, dict) or not isinstance(request.get("call"), str):
        raise Refused('a request is an object with a "call"')
    return request


def write_whole(stream: int, data: bytes) -> None:
    """All of it, past Python's own buffers, which would complain at exit where nobody listens any more."""
    while data:
        data = data[os.write(stream, data) :]


def main(argv: list[str]) -> int:
    """Serve standard input until the answer or the end; exit code 0 whatever the diagnoser did."""
    evidence, tier, budget, result = argv
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    with Path(f"{result}.calls.jsonl").open("w") as notes:
        server = Server(Path(evidence), tier, json.loads(budget), notes)
        while not server.ended and (line := sys.stdin.buffer.readline(REQUEST_BYTES)):
            text = json.dumps(server.reply(line)).encode()
            try:
                write_whole(sys.stdout.fileno(), text + b"\n")
            except BrokenPipeError:
                break
    told = {"answer": server.answer, "meter": server.reader.meter.to_dict(), "refused": server.refused}
    Path(result).write_text(json.dumps(told))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
