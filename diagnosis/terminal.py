"""A person works a case at a terminal: asks for lines, sees clock and meter, and answers from the closed vocabularies.

The same server answers as for programs, so what a person was served is metered and noted in the same way. The clock starts
with the first thing that is served and does not stop; when the time is over nothing is served any more.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from diagnosis.serve import CALLS, Server

Ask = Callable[[str], str]
Say = Callable[[str], None]

HELP = """files                         paths of this tier
read PATH [START] [N]         lines of a file (40 if N is not given)
tail PATH [N]                 the last lines
grep PATTERN PATH             lines that a regular expression finds
metrics [RUN]                 names of metrics (RUN: a healthy run, by its number)
metric NAME [SUBJECT] [S]     samples of a metric, of one subject ("all": of each), as means over S seconds
case                          components, links, who waits for whom
answer                        give the answer; it is the last thing you do"""
PAGE = 40


class NoAnswerError(Exception):
    """The person went away without an answer."""


@dataclass
class Session:
    """One person on one tier of one case. ``wall_s`` is None until something was served."""

    server: Server
    ask: Ask
    say: Say
    budget_s: float
    _begun_s: float | None = field(default=None, init=False)

    @property
    def wall_s(self) -> float:
        """Seconds since the first thing was served."""
        return 0.0 if self._begun_s is None else time.monotonic() - self._begun_s

    def work(self) -> dict[str, Any]:
        """Serve until the answer, which is returned. Raises NoAnswerError when the input ends before."""
        self.say(HELP)
        told: dict[str, Any] = self._call({"call": "case"})["result"]
        try:
            while True:
                words = _split(self.ask(self._prompt()))
                if words[:1] == ["answer"]:
                    answer = fill_form(told["vocabulary"], self.ask, self.say)
                    self._call({"call": "submit", "answer": answer})
                    return answer
                if words:
                    self._serve(words, told)
        except (EOFError, KeyboardInterrupt) as error:
            raise NoAnswerError("left without an answer") from error

    def _prompt(self) -> str:
        meter = self.server.reader.meter
        left = max(self.budget_s - self.wall_s, 0.0)
        return f"[{left / 60:.0f} min left, {len(meter.opened)} files, {meter.lines} lines] > "

    def _serve(self, words: list[str], told: dict[str, Any]) -> None:
        if words == ["case"]:
            self.say(json.dumps(told["topology"], indent=1))
            return
        if self.wall_s > self.budget_s:
            self.say("the time is over: answer")
            return
        try:
            request = _request(words)
        except (ValueError, IndexError):
            self.say(HELP)
            return
        if self._begun_s is None:
            self._begun_s = time.monotonic()
        reply = self._call(request)
        self.say(reply["error"] if "error" in reply else "\n".join(map(_line, reply["result"])) or "nothing")

    def _call(self, request: dict[str, Any]) -> dict[str, Any]:
        return self.server.reply(json.dumps(request).encode() + b"\n")


def fill_form(words: dict[str, Sequence[str]], ask: Ask, say: Say) -> dict[str, Any]:
    """An answer from closed vocabularies; what is not in them is asked again."""
    said = _choose("Is something wrong", ("yes", "no", "cannot tell"), ask, say)
    if said != "yes":
        return {"fault": False, "ranked": [], "abstain": said == "cannot tell"}
    cause = {
        "component": _choose("Which component is the root", words["components"], ask, say),
        "stage": _choose("In which stage", words["stages"], ask, say),
        "kind": _choose("What kind of fault", words["kinds"], ask, say),
    }
    sure = _choose("How sure are you, in percent", [str(n) for n in range(0, 101, 5)], ask, say)
    path = ask("Path from root to symptom, components in order (may be empty): ").replace(",", " ").split()
    chain = [name for name in path if name in words["components"]]
    return {"fault": True, "ranked": [cause], "confidence": int(sure) / 100, "chain": chain, "reason": ask("Why: ")}


def _choose(question: str, words: Sequence[str], ask: Ask, say: Say) -> str:
    while True:
        said = ask(f"{question} ({', '.join(words)}): ").strip()
        if said in words:
            return said
        close = [word for word in words if said and word.startswith(said)]
        if len(close) == 1:
            return close[0]
        say("one of the words in brackets, please")


def _split(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:
        return ["?"]


def _request(words: list[str]) -> dict[str, Any]:
    """A request from a person's words. ValueError or IndexError where they are none."""
    verb, *rest = words
    if verb == "files" and not rest:
        return {"call": "list_files"}
    if verb == "read":
        start, n = (int(word) for word in [*rest[1:3], *("1", str(PAGE))[len(rest[1:3]) :]])
        return {"call": "read", "path": rest[0], "start": start, "n": n}
    if verb == "tail":
        return {"call": "tail", "path": rest[0], "n": int([*rest[1:], str(PAGE)][0])}
    if verb == "grep":
        return {"call": "grep", "pattern": rest[0], "path": rest[1]}
    if verb == "metrics":
        return {"call": "list_metrics", "run": (*rest, "")[0]}
    if verb == "metric":
        subject = (*rest[1:], "all")[0]
        every = {"every_s": float(rest[2])} if len(rest) > 2 else {}
        return {"call": "query_metric", "metric": rest[0], "subject": "" if subject == "all" else subject, **every}
    raise ValueError(f"not one of {', '.join(CALLS)}")


def _line(found: Any) -> str:
    """One line of a reply for eyes."""
    if isinstance(found, list):
        return f"{found[0]}: {found[1]}"
    if not isinstance(found, dict):
        return str(found)
    if "subjects" in found:
        return f"{found['metric']} [{found['unit']}] of {', '.join(found['subjects'])}"
    when = time.strftime("%H:%M:%S", time.gmtime(found["time_s"])) + f"{found['time_s'] % 1:.3f}"[1:]
    step = f" step {found['step']}" if found["step"] >= 0 else ""
    return f"{when} {found['subject']}{step}: {found['value']}"
