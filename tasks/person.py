"""Who may work which case by hand, on which tier; and the answer that comes of it, kept like every other."""

from __future__ import annotations

import hashlib
import io
import json
import re
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diagnosis.answer import parse_diagnosis
from diagnosis.sandbox import ANSWERED, FAILED, Attempt, Limits
from diagnosis.serve import Server
from diagnosis.terminal import Ask, NoAnswerError, Say, Session
from diagnosis.vocabulary import TIERS
from storage import truth
from storage.layout import RunPaths
from storage.seal import verify_seal
from tasks.answers import is_revealed, keep_answer
from tasks.diagnose import answer_of

#: Half an hour a case.
BUDGET_S = 1800.0
BUDGET = {"calls": Limits().calls, "bytes": Limits().served_bytes}
PRACTICE = Path(__file__).resolve().parents[1] / "diagnosis/practice.zip"
_PSEUDONYM = re.compile(r"[a-z][a-z0-9]{1,19}")


@dataclass
class OpenCase:
    """A case in the hands of a person. What they are served goes through ``server``; `close` keeps what came of it."""

    paths: RunPaths
    person: str
    tier: str
    about: dict[str, Any]
    server: Server
    notes: io.StringIO

    def close(self, answer: dict[str, Any] | None, reason: str, wall_s: float) -> dict[str, Any]:
        """Keep the answer as of diagnoser ``human-<person>``; None is a failed one, with the reason. Returns what was kept."""
        diagnosis = parse_diagnosis(answer, _manifest(self.paths)) if answer else None
        status = ANSWERED if diagnosis else FAILED
        meter = self.server.reader.meter.to_dict()
        came = Attempt(diagnosis, reason, meter, wall_s, "person", status, self.notes.getvalue())
        told = answer_of(self.paths, f"human-{self.person}", self.tier, came, "") | {"person": self.about}
        return keep_answer(self.paths, told, came.calls)


def open_case(paths: RunPaths, person: str, about: dict[str, Any], tier: str = "") -> OpenCase:
    """Give a sealed case to a person; ``about`` is kept with the answer. From here on it is worked, whatever comes of it.

    Raises ValueError for a case that this person may not work: it is open already, or one of its like was worked on another
    tier, since who has seen a case once reads it with other eyes.
    """
    _refuse(paths, person)
    level = tier or drawn_tier(paths, person)
    if level not in TIERS:
        raise ValueError(f"no tier {level!r}; there are {', '.join(TIERS)}")
    notes = io.StringIO()
    case = OpenCase(paths, person, level, about, Server(paths.evidence, level, BUDGET, notes), notes)
    case.close(None, "opened, and not answered", 0.0)
    return case


def work_case(paths: RunPaths, person: str, about: dict[str, Any], ask: Ask, say: Say, tier: str = "") -> dict[str, Any]:
    """Let a person work a case at the terminal; returns the answer as it was kept. Raises what `open_case` raises."""
    case = open_case(paths, person, about, tier)
    session = Session(case.server, ask, say, BUDGET_S)
    say(f"case {case_id(paths)[:8]}, tier {case.tier}; you have {BUDGET_S / 60:.0f} minutes from the first line you ask for")
    try:
        answer, reason = session.work(), ""
    except NoAnswerError as error:
        answer, reason = None, str(error)
    return case.close(answer, reason, session.wall_s)


def practise(ask: Ask, say: Say, tier: str = "T1") -> None:
    """The case that everyone may work, first and as often as they like: nothing is kept, and the answer is told afterwards."""
    with tempfile.TemporaryDirectory(prefix="practice-") as folder, zipfile.ZipFile(PRACTICE) as archive:
        archive.extractall(folder)
        label = json.loads((Path(folder) / "label.json").read_text())
        session = Session(Server(Path(folder) / "evidence", tier, BUDGET, io.StringIO()), ask, say, BUDGET_S)
        try:
            answer = session.work()
        except NoAnswerError:
            return
    told = [answer["ranked"][0][what] for what in ("component", "stage", "kind")] if answer["ranked"] else "nothing"
    say(f"you named {told}; it was {[label[what] for what in ('component', 'stage', 'kinds')]}: {label['why']}")


def drawn_tier(paths: RunPaths, person: str) -> str:
    """The tier of this person on this case: all tiers come up equally often, over cases and over people, and nobody chooses."""
    drawn = hashlib.sha256(f"{person}:{case_id(paths)}".encode()).digest()
    return TIERS[drawn[0] % len(TIERS)]


def case_id(paths: RunPaths) -> str:
    """The case's public name."""
    return str(_manifest(paths)["case_id"])


def _refuse(paths: RunPaths, person: str) -> None:
    if not _PSEUDONYM.fullmatch(person):
        raise ValueError("a pseudonym has 2 to 20 small letters and digits and begins with a letter")
    problems = verify_seal(paths)
    if problems:
        raise ValueError(f"run {paths.run_id} cannot be diagnosed: {'; '.join(problems)}")
    if is_revealed(paths) or paths.score.exists():
        raise ValueError(f"run {paths.run_id} is open already: its answer may be known")
    if any(_alike(paths, other) for other in _worked_by(paths, person)):
        # It must not be said which: that would tell the two alike.
        raise ValueError("this case is not for you: take another")


def _worked_by(paths: RunPaths, person: str) -> list[RunPaths]:
    """Runs beside this one that the person has answered on some tier."""
    answered = paths.root.parent.glob(f"*/answers/human-{person}-T*.json")
    return [RunPaths(path.parents[1]) for path in answered]


def _alike(one: RunPaths, other: RunPaths) -> bool:
    if one.root == other.root:
        return True
    try:
        return bool(truth.load_plan(one)["scenario"] == truth.load_plan(other)["scenario"])
    except (OSError, ValueError):
        return False


def _manifest(paths: RunPaths) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((paths.evidence / "manifest.json").read_bytes())
    return manifest
