"""With which interpreter a diagnoser runs: ours with the standard library alone, or that of an environment of its own.

RCAEval's methods need numpy below 2 and pandas, which the lab does not have: `make rcaeval` makes an environment for them
beside the lab's own, and ``FAULTLINE_RCAEVAL`` names another one. Nothing of it is ever imported here.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

from diagnosis.jail import WORK
from diagnosis.run import MODULES, RCAEVAL

VARIABLE = "FAULTLINE_RCAEVAL"
#: One thread: the sandbox counts processes and memory, and the matrices are small.
QUIET = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MPLCONFIGDIR": WORK}


@dataclass(frozen=True)
class Interpreter:
    """``command`` begins the command line, ``folders`` are all that it needs to read, ``env`` is set besides the usual."""

    command: tuple[str, ...]
    folders: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict)


def own_interpreter() -> Interpreter:
    """Ours outside any virtual environment, without its packages."""
    program = str(Path(getattr(sys, "_base_executable", sys.executable)).resolve())
    return Interpreter((program, "-S", "-s", "-B"), (sys.base_prefix,))


def offered() -> tuple[str, ...]:
    """The diagnosers that can be asked here: those of RCAEval where their environment is."""
    return (*MODULES, *RCAEVAL) if rcaeval_missing() == "" else tuple(MODULES)


def interpreter_of(name: str) -> Interpreter:
    """The interpreter of a diagnoser by its name. Raises ValueError where the environment that it needs is not there."""
    if name not in RCAEVAL:
        return own_interpreter()
    missing = rcaeval_missing()
    if missing:
        raise ValueError(f"{name} needs an environment of its own: {missing}")
    place = rcaeval_place()
    told = dict(line.split(" = ", 1) for line in (place / "pyvenv.cfg").read_text().splitlines() if " = " in line)
    return Interpreter((str(place / "bin/python"), "-s", "-B"), (str(Path(told["home"]).parent), str(place)), QUIET)


def rcaeval_place() -> Path:
    """Where the environment is looked for: where ``FAULTLINE_RCAEVAL`` says, else beside our own."""
    return Path(os.environ.get(VARIABLE) or f"{sys.prefix}-rcaeval").absolute()


def rcaeval_missing() -> str:
    """Why the environment cannot be used, or an empty text."""
    place = rcaeval_place()
    if not (place / "pyvenv.cfg").is_file():
        return f"{place} is none; make it with `make rcaeval`, or name one with {VARIABLE}"
    if not list(place.glob("lib/python3*/site-packages/RCAEval/e2e/baro.py")):
        return f"{place} has no RCAEval in it; `make rcaeval` makes one that has"
    return ""
