"""What the logs say in so many words: who ended and how, what a process ran short of, who could not reach whom."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from diagnosis.clues import named_components
from diagnosis.complaints import Complaint, complaints
from diagnosis.gauges import Gauges, value
from diagnosis.reader import LogRecord
from diagnosis.signs import CERTAIN, COMPLAINT, SEEN, STRONG, Sign
from diagnosis.signs_disk import writer_of
from diagnosis.story import EVENTS, Story, by_worker

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
_EXIT = re.compile(r"(?P<told>ended with|after) exit code (?P<code>-?\d+)")
#: An upload says how far it came; who waits for weights says only that it waited.
_PROGRESS = re.compile(r"gave up after [\d.]+s, (\d+) of \d+ chunks")
_WAITED = re.compile(r"waiting for weights")
_SILENT = re.compile(r"(?P<who>[\w-]+) is offline: no beat for (?P<s>[\d.]+) s")
#: How a process ends that was told to end, or was done.
ORDERLY = (0, -15)
#: A death may be told so much later than it was, seconds: whoever tells looks a few times a second.
LOOKED_AFTER_S = 0.35

KINDS_OF_DEATH = ("process-kill", "memory-pressure", "network-reset")
KINDS_OF_RESET = ("network-reset", "network-partition", "process-kill")
KINDS_OF_SILENCE = ("process-pause", "network-partition", "process-kill")
KINDS_OF_DEAFNESS = ("network-partition", "network-loss", "network-delay", "network-reset")
KINDS_OF_TRICKLE = ("network-bandwidth", "network-loss", "network-delay", "network-partition")
#: Calls that wait for something else than the callee's own computing.
KINDS_OF_CALL = {" upload_weights: ": KINDS_OF_TRICKLE, " save: ": ("io-contention", "process-pause", "disk-fill")}
KINDS_OF_NAMES = ("dns-failure", "network-partition")


def deaths(story: Story) -> Iterator[Sign]:
    """A process that ended although nobody had told it to, by its exit code."""
    heeded = heeded_s(story)
    for record in story.mentioning("exit code"):
        code = _EXIT.search(record.text)
        # Who is started again may have been ended for that; who was killed at the very end may not have heeded it.
        if record.level == "DEBUG" or not code or code["told"] == "after" or record.time_s > heeded:
            continue
        for who, number in exits_in(record, story):
            if number not in ORDERLY:
                kinds = ("process-kill", "memory-pressure") if number == -9 else ("memory-pressure", "process-kill")
                time_s = min(record.time_s, story.ending_s)
                yield Sign("death", who, kinds, CERTAIN, time_s, why(record), since_s=record.time_s - LOOKED_AFTER_S)


def heeded_s(story: Story) -> float:
    """When the first of those who were told to end had ended; infinite when nobody is known to have."""
    told = [
        r.time_s for r in story.everything if r.time_s >= story.ending_s for _, code in exits_in(r, story) if code in ORDERLY
    ]
    return min(told, default=float("inf"))


def heedless(story: Story) -> Iterator[Sign]:
    """A process that did not end when it was told to: who stands still, or waits for a disk, hears nothing."""
    heeded = heeded_s(story)
    late = [
        (record, who)
        for record in story.mentioning("exit code")
        if record.time_s > heeded
        for who, code in exits_in(record, story)
        if code == -9
    ]
    for record, who in late:
        told = [one.time_s for one in story.records.get(who, ()) if one.time_s < story.ending_s]
        since_s = max(told, default=0.0)
        warned = [one.time_s for one in story.everything if one.level in ("WARNING", "ERROR") and one.time_s > since_s]
        strength = SEEN if len(late) == 1 else COMPLAINT
        kinds, time_s = ("process-pause", "io-contention"), min([*warned, story.ending_s])
        yield Sign("death", who, kinds, strength, time_s, why(record), since_s=since_s, seen_s=record.time_s)


def silences(story: Story) -> Iterator[Sign]:
    """A process whose beats are missed although its connections stand."""
    for record in story.mentioning("is offline"):
        silent = _SILENT.search(record.text)
        who = story.component(silent["who"]) if silent and record.level == "WARNING" else ""
        if silent and who:
            begun_s = record.time_s - float(silent["s"])
            yield Sign("deafness", who, KINDS_OF_SILENCE, STRONG + 1, record.time_s, why(record), since_s=begun_s)


def words(story: Story) -> Iterator[Sign]:
    """An error in which a process tells what it ran short of itself: in its own log, or as the controller was told."""
    for record in before_the_end(story, also_first_cause=True):
        if record.level not in ("WARNING", "ERROR", "CRITICAL") and not record.is_error:
            continue
        # A traceback of one's own that nobody logged stands below some other line.
        head = head_of(record) if record.owner == story.controller or not record.is_error else record.text
        lease = _LEASE.search(head)
        # Who has what another lacks is named, too, but speaks of nothing of its own.
        told = head[: lease.start()] if lease else head
        named = [name for name in named_components(told, story.vocabulary) if name != story.controller]
        suspect = record.owner if record.owner != story.controller else named[0] if named else ""
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
    sound = [w.end_s for w in story.works if w.what in ("save", "update_weights_from_disk") and w.end_s < record.time_s]
    entered = story.entered(max(sound, default=0.0), record.time_s)
    stage = next((stage for stage in ("weights_update", "train", "checkpoint") if stage in entered), entered[0])
    kinds = ("file-corruption", "disk-fill")
    return Sign("words", writer_of(story) or record.owner, kinds, SEEN, record.time_s, why(record), stage=stage)


def calls(story: Story, gauges: Gauges) -> Iterator[Sign]:
    """What callers complain of, each way of failing by what it says about both ends."""
    every = list(complaints(story))
    for one in every:
        if one.how in ("unresolved", "unreachable"):
            yield accused("words", one, KINDS_OF_NAMES, CERTAIN if one.how == "unresolved" else SEEN)
        elif one.how in ("refused", "reset"):
            if lives(story, gauges, one) or (unknown(story, gauges, one) and only_one(story, one, every)):
                yield replace(accused("words", one, KINDS_OF_RESET, SEEN), amid=one.how == "reset")
            else:
                yield blamed("death", one, KINDS_OF_DEATH, SEEN if one.how == "refused" else STRONG + 1)
        elif one.how == "unconnected":
            yield accused("deafness", one, KINDS_OF_DEAFNESS, STRONG + 1)
        else:
            yield unanswered(story, one, every)


def accused(signal: str, one: Complaint, kinds: tuple[str, ...], strength: float) -> Sign:
    """The way from caller to callee is at fault."""
    return Sign(signal, one.src, kinds, strength, one.begun_s, why(one.record), one.dst, seen_s=one.time_s)


def blamed(signal: str, one: Complaint, kinds: tuple[str, ...], strength: float) -> Sign:
    """The callee is."""
    return Sign(signal, one.dst, kinds, strength, one.begun_s, why(one.record), seen_s=one.time_s)


def unanswered(story: Story, one: Complaint, every: list[Complaint]) -> Sign:
    """A call that was taken and not answered, by which of the two?

    Whoever did other things meanwhile was kept from this one on the way. A second call of the same sort is made on a new
    connection: where that is taken, too, and nobody answers, the way is open and the callee stands still. So it does when
    several callers get no answer; when only one of several does not, it is that one's way.
    """
    what = next((name for name in EVENTS if re.search(rf"\b{name}\b", head_of(one.record))), "")
    progress = _PROGRESS.search(head_of(one.record))
    if progress:
        return accused("deafness", one, KINDS_OF_TRICKLE if int(progress[1]) else KINDS_OF_DEAFNESS, STRONG + 1)
    if _WAITED.search(head_of(one.record)):
        alone = not any(other.src != one.src and _WAITED.search(head_of(other.record)) for other in every)
        fed = any(w.what == "update_weights" and one.begun_s < w.end_s < one.time_s for w in story.works)
        sure = alone and fed
        return accused("deafness", one, KINDS_OF_DEAFNESS, STRONG + 1) if sure else blamed("deafness", one, (), COMPLAINT)
    if answers_others(story, one):
        return accused("deafness", one, KINDS_OF_DEAFNESS, STRONG + 1)
    if len(crying(one, every)) > 1 or keeps_silent(one, every):
        return blamed("deafness", one, kinds_of_call(one), STRONG + 1)
    if only_one(story, one, every):
        return accused("deafness", one, KINDS_OF_DEAFNESS, STRONG + 1)
    if heard_late(story, one, what) or alive_between(story, one.dst, one.begun_s, one.time_s):
        return accused("deafness", one, KINDS_OF_DEAFNESS, STRONG + 1)
    return blamed("deafness", one, kinds_of_call(one), COMPLAINT)


def kinds_of_call(one: Complaint) -> tuple[str, ...]:
    """What could keep a callee from answering: what the call itself needs, else whatever keeps it silent."""
    return next((kinds for call, kinds in KINDS_OF_CALL.items() if call in head_of(one.record)), KINDS_OF_SILENCE)


def answers_others(story: Story, one: Complaint) -> bool:
    """Whether the callee answered a later call, if only by an error of its own."""
    later = [r.text for r in story.records[story.controller] if one.time_s < r.time_s < story.ending_s]
    return any(f"{one.dst}: HTTP " in text for text in later)


def crying(one: Complaint, every: list[Complaint]) -> set[str]:
    """Who complains of the same callee."""
    return {other.src for other in every if other.dst == one.dst}


def only_one(story: Story, one: Complaint, every: list[Complaint]) -> bool:
    """Whether the callee has other callers, and none of them complains."""
    callers = {src for src, dst, _ in story.vocabulary.links if dst == one.dst}
    return len(callers) > 1 and crying(one, every) == {one.src}


def unknown(story: Story, gauges: Gauges, one: Complaint) -> bool:
    """Whether nothing there is to read tells how the callee ended."""
    return not gauges.one("process_alive", one.dst) and all(who != one.dst for who, _ in exits(story))


def keeps_silent(one: Complaint, every: list[Complaint]) -> bool:
    """Whether the callee took a later call of this sort and did not answer that either, and no dial to it failed."""
    same = [other for other in every if (other.src, other.dst) == (one.src, one.dst)]
    events = [("/event" in head_of(other.record)) == ("/event" in head_of(one.record)) for other in same]
    again = [other for other, alike in zip(same, events, strict=True) if alike and other.begun_s >= one.time_s]
    return bool(again) and all(other.how == "unanswered" for other in same)


def heard_late(story: Story, one: Complaint, what: str) -> bool:
    """Whether the callee heard of an event after all."""
    step = story.at(one.begun_s)[1]
    return what in EVENTS and step in by_worker(story.works).get((what, one.dst), {})


def lives(story: Story, gauges: Gauges, one: Complaint) -> bool:
    """Whether the callee is known to have lived on after a caller lost it or was refused."""
    ends = [code for who, code in exits(story) if who == one.dst]
    if ends:
        return all(code in ORDERLY for code in ends)
    states = gauges.one("process_alive", one.dst)
    if gauges.fine and states:
        return all(value(sample) > 0.5 for sample in states if sample.time_s < min(story.ending_s, one.time_s + 1.0))
    return alive_between(story, one.dst, one.time_s, story.ending_s)


def exits(story: Story) -> Iterator[tuple[str, int]]:
    """Who ended, and by which code, as whoever watches the processes tells; orderly ends of the job are among them."""
    for record in story.mentioning("exit code"):
        yield from exits_in(record, story)


def exits_in(record: LogRecord, story: Story) -> Iterator[tuple[str, int]]:
    """The one that this record tells of, if it does."""
    code = _EXIT.search(record.text)
    named = [name for name in named_components(record.text, story.vocabulary) if name != record.owner] if code else []
    if code and named:
        yield named[0], int(code["code"])


def alive_between(story: Story, who: str, since_s: float, until_s: float) -> bool:
    """Whether it wrote anything, or did anything that was answered, in between."""
    return any(since_s < record.time_s < until_s for record in story.records.get(who, ()))


def before_the_end(story: Story, *, also_first_cause: bool = False) -> list[LogRecord]:
    """Records of all logs by time, until the job is being ended: what comes then is of its ending."""
    return [
        record
        for record in story.everything
        if record.time_s < story.ending_s or (also_first_cause and record.text.startswith("First cause: "))
    ]


def head_of(record: LogRecord) -> str:
    """The first line."""
    return record.text.split("\n", 1)[0]


def why(record: LogRecord) -> str:
    """Where it stands and what it says."""
    return f"{record.path} line {record.line}: {head_of(record)[:200]}"
