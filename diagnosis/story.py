"""What the logs of one run tell: which stage the job was in, and what every worker was asked, did, and how long it took.

Read from the trainer's own lines. Times are seconds on the case's clock. The controller's log alone tells the stages.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import PurePath
from statistics import median

from diagnosis.clues import opened_stage
from diagnosis.reader import LogRecord, Reader
from diagnosis.vocabulary import Vocabulary

_DID = re.compile(r"^(?:event (?P<event>\w+), global_step: |(?P<call>\w+) success, \{'(?:step|version)': )(?P<step>\d+)")
_SERVED = re.compile(r"^/\w+ (?P<code>\d+) in (?P<took>[\d.]+)s")
_STEP = re.compile(r"(?:\bstep|global_step): ?(\d+)")
_NOTIFY = re.compile(r"start to notify_(\w+)_event")
#: What a part of a step ends with. Who entered the next stage may have been held up before it said so.
_CLOSED = re.compile(r"\b(succeeded|success|failed)\b")
#: The trainer's own words when it begins to end the job: after an error, and in any case.
_ENDING = re.compile(r"begin cleanup resource|Stopping job with UID")
_FAILED = re.compile(r"begin cleanup resource")

#: Told to workers and not asked of them; they are over at once.
EVENTS = ("rollout_start", "rollout_end", "train_start", "train_end")

#: In which stage a worker does what.
STAGE_OF_WORK = {
    "upload_weights": "weights_update",
    "update_weights": "weights_update",
    "update_weights_from_disk": "weights_update",
    "rollout_start": "rollout",
    "generate": "rollout",
    "rollout_end": "rollout",
    "compute_logprobs": "reference",
    "train_start": "train",
    "train_batch": "train",
    "train_end": "train",
    "save": "checkpoint",
}

#: A process takes a while to die, and a fault to take hold: who meets it sooner after entering a stage, seconds, meets what
#: struck before.
TAKES_HOLD_S = 0.02


@dataclass(frozen=True)
class Opening:
    """A stage that the controller announced: from when, in which step; ``event`` is what it told workers then, if it did.

    ``entry_s`` is when it was done with what came before: from then on it was on its way into this stage.
    """

    time_s: float
    stage: str
    step: int
    event: str
    entry_s: float = 0.0


@dataclass(frozen=True)
class Work:
    """One thing that a worker did in a step. ``lag_s`` is the time from the controller's announcement until it was heard."""

    component: str
    what: str
    step: int
    end_s: float
    took_s: float
    lag_s: float

    @property
    def stage(self) -> str:
        """The stage it belongs to, or an empty text."""
        return STAGE_OF_WORK.get(self.what, "")


class Story:
    """The logs of the case's own run ("") or of a healthy run that comes with it."""

    def __init__(self, reader: Reader, vocabulary: Vocabulary, run: str = "") -> None:
        self.vocabulary = vocabulary
        self.records: dict[str, list[LogRecord]] = {PurePath(path).stem: reader.records(path) for path in reader.logs(run)}
        [self.controller] = vocabulary.of_role("controller")
        self._mentioned: dict[str, list[LogRecord]] = {}

    @cached_property
    def openings(self) -> list[Opening]:
        """Stages in the order in which the controller opened them; those of its cleanup are not among them."""
        found, step, closed_s = [], -1, 0.0
        for record in self.records[self.controller]:
            stage, told, event = opened_stage(record.text), _STEP.search(record.text), _NOTIFY.search(record.text)
            step = int(told[1]) if told else step
            if stage and stage != "cleanup":
                found.append(Opening(record.time_s, stage, step, event[1] if event else "", closed_s or record.time_s))
            closed_s = 0.0 if stage else record.time_s if _CLOSED.search(record.text) else closed_s
        return found

    @cached_property
    def everything(self) -> list[LogRecord]:
        """Records of all logs by time."""
        found = [record for records in self.records.values() for record in records]
        return sorted(found, key=lambda record: (record.time, record.path, record.line))

    def mentioning(self, words: str) -> list[LogRecord]:
        """Records of all logs that hold these words, by time."""
        if words not in self._mentioned:
            self._mentioned[words] = [record for record in self.everything if words in record.text]
        return self._mentioned[words]

    @cached_property
    def ending_s(self) -> float:
        """When the controller began to end the job; infinite when its log stops before."""
        return next((r.time_s for r in self.records[self.controller] if _ENDING.search(r.text)), float("inf"))

    @cached_property
    def last_s(self) -> float:
        """When the last line of all was written."""
        return max((records[-1].time_s for records in self.records.values() if records), default=0.0)

    @cached_property
    def failed(self) -> bool:
        """Whether the job was ended by an error, or its log just stops."""
        told = any(_FAILED.search(record.text) for record in self.records[self.controller])
        return told or self.ending_s == float("inf")

    def component(self, name: str) -> str:
        """The component of that name, or the only one of that role; empty for a name that says neither."""
        if name in self.vocabulary.roles:
            return name
        [only] = self.vocabulary.of_role(name) if len(self.vocabulary.of_role(name)) == 1 else ("",)
        return only

    def at(self, time_s: float) -> tuple[str, int]:
        """Stage and step in force: ("init", -1) before the first, "cleanup" once the job is being ended."""
        place = bisect_right(self._entries, time_s) - 1
        stage, step = (self.openings[place].stage, self.openings[place].step) if place >= 0 else ("init", -1)
        return ("cleanup" if time_s >= self.ending_s else stage), step

    def struck(self, since_s: float, time_s: float, stages: tuple[str, ...]) -> str:
        """The stage in which something struck that was well at ``since_s`` (0: unknown) and in trouble at ``time_s``.

        Of the stages entered in between the first in which the accused has work (``stages``): had it struck before, it would
        have shown there. Scoring has no line of the controller's; it lies within the rollout.
        """
        here = self.at(time_s)[0]
        if stages == ("reward",):
            return "reward" if here == "rollout" or since_s == 0 else here
        entered = self.entered(since_s, time_s)
        return next((stage for stage in entered if stage in stages), entered[0])

    def entered(self, since_s: float, time_s: float) -> list[str]:
        """The stages entered between two moments, long enough before the second to matter; else the one in force then."""
        # The one before was over at `entry_s`; somewhere from then on until the first line of this one it was entered.
        between = [one for one in self.openings if since_s < one.time_s and one.entry_s <= time_s] if since_s else []
        settled = [opening for opening in between if opening.entry_s <= time_s - TAKES_HOLD_S]
        entered = [opening.stage for opening in settled or between] or [self.at(time_s)[0]]
        return [*entered, "cleanup"] if 0 < since_s < self.ending_s <= time_s else entered

    def sampling(self, who: str, time_s: float) -> bool:
        """Whether a rollout worker had begun to sample in this step, and was not told yet that it is over."""
        step = self.at(time_s)[1]
        heard = [work for work in self.works if work.component == who and work.end_s < time_s + TAKES_HOLD_S]
        begun = (work.end_s - work.took_s for work in self.works if (work.component, work.what) == (who, "generate"))
        if not heard or heard[-1].step != step or heard[-1].what not in ("rollout_start", "generate"):
            return False
        # One that came to its end says when it had begun; of one that never did it is taken for granted.
        return not any(time_s < begun_s < self._next_step_s(time_s) for begun_s in begun)

    def _next_step_s(self, time_s: float) -> float:
        """When the step after the one in force is entered; infinite for the last."""
        step = self.at(time_s)[1]
        return next((opening.time_s for opening in self.openings if opening.step > step), float("inf"))

    def last_of(self, stages: tuple[str, ...], time_s: float) -> str:
        """The last of these stages that was entered by then; empty when none was."""
        return next((o.stage for o in reversed(self.openings) if o.entry_s <= time_s and o.stage in stages), "")

    def announced(self, what: str, step: int) -> float | None:
        """When the controller announced an event or the stage of some work in that step."""
        return self._announced.get((what, step), self._announced.get((STAGE_OF_WORK.get(what, ""), step)))

    @cached_property
    def works(self) -> list[Work]:
        """What the workers did, by component and time."""
        return [work for component in self.records for work in self._works_of(component)]

    @cached_property
    def step_s(self) -> float:
        """Median seconds from one step to the next; of the whole run when it had but one."""
        begins = [opening.time_s for opening in self.openings if opening.stage == "weights_update"]
        gaps = [after - before for before, after in pairwise(begins)]
        return median(gaps) if gaps else self.openings[-1].time_s - self.openings[0].time_s if self.openings else 1.0

    @cached_property
    def _entries(self) -> list[float]:
        return [opening.entry_s or opening.time_s for opening in self.openings]

    @cached_property
    def _announced(self) -> dict[tuple[str, int], float]:
        """(event or stage, step) -> when the controller announced it."""
        first: dict[tuple[str, int], float] = {}
        for opening in self.openings:
            first.setdefault((opening.event or opening.stage, opening.step), opening.time_s)
        for record in self.records[self.controller]:
            told, step = _NOTIFY.search(record.text), _STEP.search(record.text)
            if told and step:
                first.setdefault((told[1], int(step[1])), record.time_s)
        return first

    def _works_of(self, component: str) -> list[Work]:
        works, doing = [], None
        for record in self.records[component]:
            did, served = _DID.match(record.text), _SERVED.match(record.text)
            if did:
                doing = (did["event"] or did["call"], int(did["step"]))
            elif served and doing:
                took_s = float(served["took"])
                works.append(self._work(component, doing, record.time_s, took_s))
                doing = None
        return works

    def _work(self, component: str, doing: tuple[str, int], end_s: float, took_s: float) -> Work:
        what, step = doing
        asked = self.announced(what, step)
        return Work(component, what, step, end_s, took_s, 0.0 if asked is None else max(0.0, end_s - took_s - asked))


def by_worker(works: list[Work]) -> dict[tuple[str, str], dict[int, Work]]:
    """(what, component) -> step -> the last such work of that step."""
    found: dict[tuple[str, str], dict[int, Work]] = defaultdict(dict)
    for work in works:
        found[work.what, work.component][work.step] = work
    return dict(found)
