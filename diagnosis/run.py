"""``python -m diagnosis.run NAME``: one Python diagnoser as a program that asks and answers over standard input and output.

Standard library only, so that it starts in milliseconds and runs where nothing else is installed. Whatever the diagnoser
prints goes to standard error: standard output carries the questions and the answer, and nothing else.
"""

from __future__ import annotations

import contextlib
import importlib
import sys

from diagnosis.channel import ChannelReader
from diagnosis.vocabulary import read_vocabulary

#: The diagnosers that come with the lab, by the name under which they answer.
MODULES = {
    "random": "guess",
    "prior-only": "prior",
    "last-error": "last_error",
    "first-error": "first_error",
    "error-code": "error_code",
    "log-diff": "log_diff",
    "worst-z": "worst_z",
    "peer-outlier": "peer_outlier",
    "stage-deadline": "stage_deadline",
    "baro-two-sided": "baro_two_sided",
    "causal": "causal",
}
#: Methods of RCAEval, which run in an environment of their own (`diagnosis.environment`) and are offered where that is.
RCAEVAL = {"rcaeval-baro": "rcaeval_baro", "rcaeval-nsigma": "rcaeval_nsigma", "rcaeval-circa": "rcaeval_circa"}
#: The tiers that have metrics.
METRICS = ("T2", "T3")
#: The tiers on which each is asked when nobody says which: where it has something to read that the tier below has not.
ASKED_ON: dict[str, tuple[str, ...]] = {
    "random": ("T0",),
    "prior-only": ("T0",),
    "last-error": ("T0",),
    "first-error": ("T0", "T1"),
    "error-code": ("T0", "T1"),
    "log-diff": ("T1", "T2"),
    "worst-z": ("T2", "T3"),
    "peer-outlier": ("T2", "T3"),
    "stage-deadline": ("T0", "T2"),
    "baro-two-sided": METRICS,
    "causal": ("T0", "T1", "T2", "T3"),
}


def tiers_of(name: str) -> tuple[str, ...]:
    """The tiers on which a diagnoser is asked when nobody says which."""
    return ASKED_ON.get(name, METRICS)


def main(argv: list[str]) -> int:
    """Submit the answer. Exit code 0; 2 for wrong arguments; a diagnoser's exception ends the process with its traceback."""
    if len(argv) != 1:
        print("usage: python -m diagnosis.run NAME", file=sys.stderr)  # noqa: T201 - a program's message
        return 2
    diagnoser = importlib.import_module(f"diagnosis.diagnosers.{MODULES.get(argv[0], argv[0])}")
    reader = ChannelReader(sys.stdin, sys.stdout)
    with contextlib.redirect_stdout(sys.stderr):
        reader.submit(diagnoser.diagnose(reader, read_vocabulary(reader.case())))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
