"""What the logs say in so many words: who ended and how, what a process ran short of, who could not reach whom."""

from __future__ import annotations

import re
from collections.abc import Iterator

from diagnosis.clues import named_components
from diagnosis.complaints import Complaint, complaints
from diagnosis.gauges import Gauges, value
from diagnosis.reader import LogRecord
from diagnosis.signs import CERTAIN, COMPLAINT, SEEN, STRONG, Sign
from diagnosis.story import EVENTS, STAGE_OF_WORK, Story, by_worker

MEMORY = r"can't allocate memory|Cannot allocate memory|\bMemoryError\b|bad_alloc|can't start new thread|Errno 12\b"
FULL = r"No space left|Errno 28\b|unexpected pos \d+ vs \d+|short write"
DAMAGED = r"\bchecksum\b|\bcorrupt|\bCRC\b|InvalidHeader|PytorchStreamReader|EOFError|UnpicklingError|[Dd]amaged|does not load"
#: Errors that tell what a process itself ran short of, and what else it may have been.
OWN_WORDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (FULL, ("disk-fill", "io-contention", "file-corruption")),
    (MEMORY, ("memory-pressure", "cpu-contention")),
    (DAMAGED, ("file-corruption", "disk-fill")),
)
#: Who has the device that another could not get.
_LEASE = re.compile(r"out of memory: .*lease held by (\S+) for")
_EXIT = re.compile(r"(?:ended with|after) exit code (-?\d+)")
#: How a process ends that was told to end, or was done.
ORDERLY = (0, -15)
#: A death may be told so much later than it was, seconds: whoever tells looks a few times a second.
LOOKED_AFTER_S = 0.35

KINDS_OF_DEATH = ("process-kill", "memory-pressure", "network-reset")
KINDS_OF_RESET = ("network-reset", "network-partition", "process-kill")
KINDS_OF_SILENCE = ("process-pause", "network-partition", "process-kill")
KINDS_OF_DEAFNESS = ("network-partition", "network-loss", "network-delay", "network-reset")
KINDS_OF_NAMES = ("dns-failure", "network-partition")


def deaths(story: Story) -> Iterator[Sign]:
    """A process that ended although nobody had told it to, by its exit code."""
    for record in before_the_end(story):
        code, named = _EXIT.search(record.text), named_components(record.text, story.vocabulary)
        told = [name for name in named if name != record.owner][:1]
        if not told or not code or record.level == "DEBUG" or int(code[1]) in ORDERLY:
            continue
        kinds = ("process-kill", "memory-pressure") if int(code[1]) == -9 else ("memory-pressure", "process-kill")
        since_s = record.time_s - LOOKED_AFTER_S
        yield Sign("death", told[0], kinds, CERTAIN, record.time_s, why(record), since_s=since_s)


def words(story: Story) -> Iterator[Sign]:
    """An error in which a process tells what it ran short of itself: in its own log, or as the controller was told."""
    for record in before_the_end(story, also_first_cause=True):
        if record.level not in ("WARNING", "ERROR", "CRITICAL"):
            continue
        head = head_of(record)
        named = [name for name in named_components(head, story.vocabulary) if name != story.controller]
        suspect = record.owner if record.owner != story.controller else named[0] if named else ""
        lease = _LEASE.search(head)
        own = next((kinds for pattern, kinds in OWN_WORDS if re.search(pattern, head)), ())
        kinds = ("memory-pressure",) if lease and lease[1] == suspect else () if lease else own
        if kinds and kinds[0] == "file-corruption":
            yield damage(story, record)
        elif suspect and kinds:
            yield Sign("words", suspect, kinds, CERTAIN - 0.5, record.time_s, why(record))


def damage(story: Story, record: LogRecord) -> Sign:
    """A file that was read and is not what was written. Who wrote it is accused, and not who reads.

    It was whole when it was last written or read.
    """
    savers = sorted({work.component for work in story.works if work.what == "save"})
    writer = next(iter([*savers, *story.vocabulary.of_role("train")]), record.owner)
    sound = [w.end_s for w in story.works if w.what in ("save", "update_weights_from_disk") and w.end_s < record.time_s]
    stage = story.struck(max(sound, default=0.0), record.time_s, ("weights_update", "checkpoint"))
    return Sign("words", writer, ("file-corruption", "disk-fill"), SEEN, record.time_s, why(record), stage=stage)


def calls(story: Story, gauges: Gauges) -> Iterator[Sign]:
    """What callers complain of, each way of failing by what it says about both ends."""
    for one in complaints(story):
        if one.how == "unresolved":
            yield accused(one, one.src, KINDS_OF_NAMES, CERTAIN, one.dst)
        elif one.how == "unreachable":
            yield accused(one, one.src, KINDS_OF_NAMES, SEEN, one.dst)
        elif one.how in ("refused", "reset"):
            if lives(story, gauges, one):
                yield accused(one, one.src, KINDS_OF_RESET, SEEN, one.dst)
            else:
                yield accused(one, one.dst, KINDS_OF_DEATH, SEEN if one.how == "refused" else STRONG + 1, "")
        elif one.how == "unconnected":
            yield accused(one, one.src, KINDS_OF_DEAFNESS, STRONG + 1, one.dst)
        else:
            yield unanswered(story, one)


def accused(one: Complaint, who: str, kinds: tuple[str, ...], strength: float, peer: str) -> Sign:
    """The sign of a complaint."""
    signal = {"unresolved": "words", "unreachable": "words", "unanswered": "deafness", "unconnected": "deafness"}
    told = signal.get(one.how, "words" if peer else "death")
    return Sign(told, who, kinds, strength, one.begun_s, why(one.record), peer, seen_s=one.time_s)


def unanswered(story: Story, one: Complaint) -> Sign:
    """A call that was taken and not answered: the callee stands still, unless it was heard later that all was well there.

    An event is told and not asked; a worker that heard it late, or was well otherwise, was kept from it on the way.
    """
    what = next((name for name in EVENTS if re.search(rf"\b{name}\b", head_of(one.record))), "")
    stage, step = story.at(one.begun_s)
    heard = by_worker(story.works).get((what, one.dst), {}).get(step)
    if what and (heard or len(story.records) == 1 or alive_between(story, one.dst, one.begun_s, one.time_s)):
        begun_s = story.announced(what, step) or one.begun_s
        stage = STAGE_OF_WORK.get(what, stage)
        sign = accused(one, one.src, KINDS_OF_DEAFNESS, STRONG + 1, one.dst)
        return Sign(**{**vars(sign), "time_s": begun_s, "stage": stage})
    return accused(one, one.dst, KINDS_OF_SILENCE, COMPLAINT, "")


def lives(story: Story, gauges: Gauges, one: Complaint) -> bool:
    """Whether the callee is known to have lived on after a caller lost it or was refused."""
    if any(sign.component == one.dst for sign in deaths(story)):
        return False
    states = gauges.one("process_alive", one.dst)
    if gauges.fine and states:
        return all(value(sample) > 0.5 for sample in states if sample.time_s < min(story.ending_s, one.time_s + 1.0))
    return alive_between(story, one.dst, one.time_s, story.ending_s)


def alive_between(story: Story, who: str, since_s: float, until_s: float) -> bool:
    """Whether it wrote anything, or did anything that was answered, in between."""
    return any(since_s < record.time_s < until_s for record in story.records.get(who, ()))


def before_the_end(story: Story, *, also_first_cause: bool = False) -> list[LogRecord]:
    """Records of all logs by time, until the job is being ended: what comes then is of its ending."""
    found = [record for records in story.records.values() for record in records]
    kept = [r for r in found if r.time_s < story.ending_s or (also_first_cause and r.text.startswith("First cause: "))]
    return sorted(kept, key=lambda record: (record.time, record.path, record.line))


def head_of(record: LogRecord) -> str:
    """The first line."""
    return record.text.split("\n", 1)[0]


def why(record: LogRecord) -> str:
    """Where it stands and what it says."""
    return f"{record.path} line {record.line}: {head_of(record)[:200]}"
