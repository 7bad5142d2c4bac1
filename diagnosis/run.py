"""``python -m diagnosis.run NAME EVIDENCE_DIR TIER``: one diagnoser on one tier; prints its answer and its effort as JSON.

Standard library only, so that it starts in milliseconds and runs where nothing else is installed. Whatever the diagnoser
prints goes to standard error: standard output carries the answer and nothing else.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

from diagnosis.reader import EvidenceReader
from diagnosis.vocabulary import read_vocabulary
from storage.records import to_dict

#: The diagnosers that come with the lab, by the name under which they answer.
MODULES = {"random": "guess", "last-error": "last_error", "first-error": "first_error", "error-code": "error_code"}


def main(argv: list[str]) -> int:
    """Print the answer. Exit code 0; 2 for wrong arguments; a diagnoser's exception ends the process with its traceback."""
    if len(argv) != 3:
        print("usage: python -m diagnosis.run NAME EVIDENCE_DIR TIER", file=sys.stderr)  # noqa: T201 - a program's message
        return 2
    name, evidence, tier = argv
    answer = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        text = answer_text(_module(name), Path(evidence), tier)
    answer.write(text + "\n")
    return 0


def answer_text(diagnoser: ModuleType, evidence: Path, tier: str) -> str:
    """``{"diagnosis": ..., "meter": ...}`` of one diagnoser as JSON."""
    reader = EvidenceReader(evidence, tier)
    vocabulary = read_vocabulary(json.loads((evidence / "manifest.json").read_text()))
    diagnosis = diagnoser.diagnose(reader, vocabulary)
    return json.dumps({"diagnosis": to_dict(diagnosis), "meter": reader.meter.to_dict()}, allow_nan=False)


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"diagnosis.diagnosers.{MODULES.get(name, name)}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
