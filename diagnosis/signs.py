"""First signs that something is wrong with one component or link, each read off one kind of evidence.

A sign accuses: the component (of a link its source, with the other end as peer), the stage and the time it began, the kinds
that could do that, and how strong it is. From `STRONG` on a sign can carry a diagnosis; weaker ones are complaints of those
who wait.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from diagnosis.clues import named_components, told_stage
from diagnosis.reader import LogRecord
from diagnosis.story import STAGE_OF_WORK, Opening, Story, by_worker

#: Strength of a sign that can carry a diagnosis, and of one that leaves no doubt of what was done.
STRONG, CERTAIN = 3.0, 5.0

#: Errors that tell what a process itself ran short of: pattern, kinds, where it struck when the words say so.
OWN_WORDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"No space left|Errno 28|unexpected pos \d+ vs \d+|short write", ("disk-fill", "io-contention", "file-corruption")),
    (r"can't allocate memory|Cannot allocate memory|\bMemoryError\b|bad_alloc", ("memory-pressure", "cpu-contention")),
    (r"[Nn]ame or service not known|name resolution|getaddrinfo|NXDOMAIN|SERVFAIL", ("dns-failure",)),
    (r"\bchecksum\b|\bcorrupt|\bCRC\b|InvalidHeader|PytorchStreamReader", ("file-corruption", "disk-fill")),
    (r"gave up after [\d.]+s, 0 of \d+ chunks", ("network-partition", "network-bandwidth", "network-delay")),
    (r"gave up after [\d.]+s, \d+ of \d+ chunks", ("network-bandwidth", "network-loss", "network-delay")),
    (r"[Cc]onnection reset|ECONNRESET", ("network-reset", "process-kill")),
)
#: Who has the device that another could not get.
_LEASE = re.compile(r"out of memory: .*lease held by (\S+) for")
_EXIT = re.compile(r"(?:ended with|after) exit code (-?\d+)")
_GONE = re.compile(r"RemoteDisconnected|Connection aborted|Connection refused|[Bb]roken pipe")
_LATE = re.compile(r"(?P<who>\S+) (?P<what>\w+): Request timeout|Connect timeout for")
#: Told to workers and not asked of them; they are over at once.
EVENTS = ("rollout_start", "rollout_end", "train_start", "train_end")
#: How a process ends that was told to end, or was done.
ORDERLY = (0, -15)

#: Kinds that could keep a worker from this work, or slow it, when nothing else is known.
KINDS_OF_WORK: dict[str, tuple[str, ...]] = {
    "upload_weights": ("network-bandwidth", "network-delay", "network-loss", "network-partition"),
    "save": ("io-contention", "disk-fill", "cpu-contention"),
}
KINDS_OF_COMPUTE = ("cpu-contention", "process-pause", "memory-pressure")
KINDS_OF_SILENCE = ("process-pause", "network-partition", "process-kill")
KINDS_OF_LATENESS = ("network-delay", "network-loss", "network-bandwidth")
KINDS_OF_DEAFNESS = ("network-partition", "network-reset", "network-loss", "network-delay")

#: Who does the work of a stage, and what could make it long.
ROLE_OF_STAGE = {
    "weights_update": "train",
    "rollout": "rollout",
    "reference": "reference",
    "train": "train",
    "checkpoint": "train",
}
KINDS_OF_STAGE = {"weights_update": ("network-delay", "network-bandwidth", "network-loss"), "checkpoint": KINDS_OF_WORK["save"]}

#: Times as long as one's own median, and as that of one's peers in the same step, from which work was slow.
SLOW_OWN, SLOW_PEER, SLOW_ALONE = 6.0, 4.0, 10.0
#: Shorter than this nothing is slow: the log's clock and the machine's scheduler are no finer.
FLOOR_S = 0.02


@dataclass(frozen=True)
class Sign:
    """One accusation. ``signal`` is the kind of evidence it was read from, ``seen_s`` when it showed if that was later."""

    signal: str
    component: str
    stage: str
    time_s: float
    kinds: tuple[str, ...]
    strength: float
    why: str
    peer: str = ""
    seen_s: float = 0.0

    @property
    def alarm_s(self) -> float:
        """When it could be known: at once, unless it took time to show."""
        return self.seen_s or self.time_s


def deaths(story: Story) -> Iterator[Sign]:
    """A process that ended although nobody had told it to, by its exit code or by the connections it left."""
    for record in _before_the_end(story):
        code, named = _EXIT.search(record.text), named_components(record.text, story.vocabulary)
        told = [name for name in named if name != record.owner][:1]
        if not told or record.level == "DEBUG":
            continue
        if code and int(code[1]) not in ORDERLY:
            yield _sign("death", story, record, told[0], ("process-kill", "memory-pressure"), 6.0)
        elif _GONE.search(_head(record)) and not re.search(r"\bBeat\b", _head(record)):
            yield _sign("death", story, record, told[0], ("process-kill", "memory-pressure", "network-reset"), 4.0)


def words(story: Story) -> Iterator[Sign]:
    """An error in which a process tells what it ran short of itself: in its own log, or as the controller was told."""
    for record in _before_the_end(story, also_first_cause=True):
        if record.level not in ("WARNING", "ERROR", "CRITICAL"):
            continue
        head = _head(record)
        named = [name for name in named_components(head, story.vocabulary) if name != story.controller]
        suspect = record.owner if record.owner != story.controller else named[0] if named else ""
        lease = _LEASE.search(head)
        kinds = ("memory-pressure",) if lease and lease[1] == suspect else () if lease else _own_kinds(head)
        if suspect and kinds:
            yield _sign("words", story, record, suspect, kinds, 5.0)


def deafness(story: Story) -> Iterator[Sign]:
    """An event that was sent in time and heard late or never by a worker that was well: the way to it is at fault."""
    works = by_worker(story.works)
    for record in _before_the_end(story):
        late = _LATE.search(_head(record))
        named = [name for name in named_components(_head(record), story.vocabulary) if name != story.controller]
        if record.owner != story.controller or not late or not named or record.level == "INFO":
            continue
        who, what = named[0], late["what"] or ""
        here, step = story.at(record.time_s)
        stage = STAGE_OF_WORK.get(what, here)
        is_event = what in EVENTS or "/event" in _head(record)
        heard = works.get((what, who), {}).get(step)
        # A stopped process answers no request either, but its kernel still takes connections.
        well = heard or not late["what"] or len(story.records) == 1 or _alive_after(story, who, record.time_s)
        if is_event and well:
            begun = story.announced(what, step) or record.time_s
            yield Sign("deafness", story.controller, stage, begun, KINDS_OF_DEAFNESS, 4.0, _why(record), who, record.time_s)
        else:
            kinds = KINDS_OF_WORK.get(what, KINDS_OF_SILENCE)
            yield Sign("deafness", who, stage, record.time_s, kinds, 2.0, _why(record), _store(story, what))


def absences(story: Story) -> Iterator[Sign]:
    """Work of a step that a worker's peers finished and it did not, although it had done so in the step before."""
    works = by_worker(story.works)
    for (what, who), steps in works.items():
        peers = [done for (other, name), done in works.items() if other == what and name != who and what not in EVENTS]
        for step in sorted({step for done in peers for step in done} - steps.keys()):
            if step - 1 not in steps and step - 2 not in steps:
                continue
            opened = min(done[step].end_s - done[step].took_s for done in peers if step in done)
            silent = not _alive_after(story, who, opened)
            kinds = KINDS_OF_WORK.get(what) or (KINDS_OF_SILENCE if silent else KINDS_OF_COMPUTE)
            why = f"{who} did not finish {what} of step {step}, its peers did"
            stage = STAGE_OF_WORK.get(what, "")
            usual = median([work.took_s for work in steps.values()])
            if stage and opened < story.ending_s:
                seen = opened + SLOW_ALONE * max(usual, FLOOR_S)
                yield Sign("absence", who, stage, opened, kinds, 3.5, why, _store(story, what), seen)


def slowness(story: Story) -> Iterator[Sign]:
    """Work that took, or a message that needed, many times what it does otherwise, while the peers' did not."""
    works = by_worker(story.works)
    for (what, who), steps in works.items():
        for step, work in steps.items():
            others = [done for at, done in steps.items() if at != step and at > 0]
            peers = [done[step] for (other, name), done in works.items() if other == what and name != who and step in done]
            if step < 1 or len(others) < 2 or not work.stage:
                continue
            took = _excess(work.took_s, [w.took_s for w in others], [w.took_s for w in peers])
            begun = work.end_s - work.took_s
            lag = _excess(work.lag_s, [w.lag_s for w in others], [w.lag_s for w in peers])
            if lag:
                sent, why = begun - work.lag_s, f"{what} of step {step} reached {who} {lag:.0f} times later than otherwise"
                seen = sent + work.lag_s * SLOW_ALONE / max(lag, SLOW_ALONE)
                yield Sign("slowness", story.controller, work.stage, sent, KINDS_OF_LATENESS, 3.5, why, who, seen)
            if took and what not in EVENTS:
                kinds = KINDS_OF_WORK.get(what, KINDS_OF_COMPUTE)
                why = f"{what} of step {step} took {who} {took:.0f} times as long as otherwise"
                if what == "upload_weights":  # it came through
                    kinds = KINDS_OF_LATENESS
                seen = begun + work.took_s * SLOW_ALONE / max(took, SLOW_ALONE)
                yield Sign("slowness", who, work.stage, begun, kinds, 3.5, why, _store(story, what), seen)


def delays(story: Story) -> Iterator[Sign]:
    """A stage that took many times as long as in other steps; whose fault it is, the controller's log alone does not tell."""
    spans: dict[str, list[tuple[float, Opening]]] = defaultdict(list)
    ends = [opening.time_s for opening in story.openings[1:]] + [story.ending_s]
    for opening, end_s in zip(story.openings, ends, strict=True):
        spans[opening.event or opening.stage].append((end_s - opening.time_s, opening))
    for what, found in spans.items():
        usual = max(median([took for took, _ in found]), FLOOR_S)
        for took, opening in found:
            if opening.step >= 1 and float("inf") > took >= max(SLOW_ALONE * usual, usual + story.step_s):
                kinds = KINDS_OF_LATENESS if what in EVENTS else KINDS_OF_STAGE.get(what, KINDS_OF_COMPUTE)
                suspects = (story.controller,) if what in EVENTS else story.vocabulary.of_role(ROLE_OF_STAGE.get(what, ""))
                why = f"{what} of step {opening.step} took {took / usual:.0f} times as long as otherwise"
                for who in suspects:
                    seen = opening.time_s + max(SLOW_ALONE * usual, usual + story.step_s)
                    yield Sign("delay", who, opening.stage, opening.time_s, kinds, 1.5, why, "", seen)


def _excess(value: float, own: list[float], peers: list[float]) -> float:
    """How many times the usual, if that is slow; else 0. Peers who are as slow wait for the same: then it is not this one."""
    usual = value / max(median(own), FLOOR_S)
    if peers:
        return usual if usual >= SLOW_OWN and value / max(median(peers), FLOOR_S) >= SLOW_PEER else 0.0
    return usual if usual >= SLOW_ALONE else 0.0


def _before_the_end(story: Story, *, also_first_cause: bool = False) -> list[LogRecord]:
    """Records of all logs by time, until the job is being ended: what comes then is of its ending."""
    found = [record for records in story.records.values() for record in records]
    kept = [r for r in found if r.time_s < story.ending_s or (also_first_cause and r.text.startswith("First cause: "))]
    return sorted(kept, key=lambda record: (record.time, record.path, record.line))


def _sign(signal: str, story: Story, record: LogRecord, suspect: str, kinds: tuple[str, ...], strength: float) -> Sign:
    stage = told_stage(_head(record)) if signal == "words" else ""
    return Sign(signal, suspect, stage or story.at(record.time_s)[0], record.time_s, kinds, strength, _why(record))


def _own_kinds(text: str) -> tuple[str, ...]:
    return next((kinds for pattern, kinds in OWN_WORDS if re.search(pattern, text)), ())


def _alive_after(story: Story, who: str, time_s: float) -> bool:
    """Whether it wrote anything between then and the job's ending."""
    return any(time_s < record.time_s < story.ending_s for record in story.records.get(who, ()))


def _store(story: Story, what: str) -> str:
    """The far end of the link that this work needs."""
    return next(iter(story.vocabulary.of_role("metaserver")), "") if what == "upload_weights" else ""


def _head(record: LogRecord) -> str:
    return record.text.split("\n", 1)[0]


def _why(record: LogRecord) -> str:
    return f"{record.path} line {record.line}: {_head(record)[:200]}"
