"""What callers say when a call fails: who could not reach or hear whom, and how that failed.

The way of failing tells the ends apart: the kernel of a process that stands still, or has no core, still takes connections;
where nobody listens any more it refuses them; where the way is cut there is no answer at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from diagnosis.reader import LogRecord
from diagnosis.story import Story

#: Ways to fail, by what the system or the client says of it.
REASONS: tuple[tuple[str, str], ...] = (
    ("unresolved", r"Errno -\d|[Nn]ame or service not known|name resolution|getaddrinfo|NXDOMAIN|SERVFAIL"),
    ("unreachable", r"Errno 113|No route to host|[Nn]etwork is unreachable"),
    ("refused", r"Errno 111|[Cc]onnection refused"),
    ("reset", r"Errno 104|ECONNRESET|[Cc]onnection reset|RemoteDisconnected|[Bb]roken pipe|Connection (aborted|lost)"),
    ("unconnected", r"Connect timeout for|connection to \S+: timed out after"),
    ("unanswered", r"Request timeout|Read timed out|gave up after|timed out after [\d.]+s waiting|: timed out"),
)
#: Patience is told in tenths of a second.
ROUNDED_S = 0.06
_URL = re.compile(r"http://(?P<dst>[\w-]+)[:/]")
_CONNECTION = re.compile(r"connection to (?P<dst>[\w-]+): ")
_CALLED = re.compile(r"^(?P<dst>[\w-]+) \w+: (?:Connection lost|Request timeout|Request failed)")
_RELAYED = re.compile(r"(?P<src>[\w-]+): HTTP \d+: ")
_PATIENCE = re.compile(r"(?:after|timeout=) ?(?P<s>\d+(?:\.\d+)?)(?: ?s\b|\))")
#: Whom a worker asks in what, when its words do not name it.
_ASKED = ((r"RewardError|reward of step", "reward"), (r"[Uu]pload|UpdateWeight|update weights", "metaserver"))


@dataclass(frozen=True)
class Complaint:
    """One failed try: ``src`` of ``dst``, at ``time_s``, begun at ``begun_s``; ``how`` is one of `REASONS`."""

    record: LogRecord
    src: str
    dst: str
    how: str
    begun_s: float

    @property
    def time_s(self) -> float:
        """When it was given up."""
        return self.record.time_s


def complaints(story: Story) -> Iterator[Complaint]:
    """All of them by time; of the job's ending those alone about the scheduler, since everybody else is ended then."""
    for record in story.everything:
        if record.level in ("WARNING", "ERROR", "CRITICAL"):
            found = complaint_of(record, story)
            if found and (record.time_s < story.ending_s or story.vocabulary.roles[found.dst] == "scheduler"):
                yield found


def complaint_of(record: LogRecord, story: Story) -> Complaint | None:
    """What this record complains of, if it does and says of whom."""
    head = record.text.split("\n", 1)[0]
    how = next((how for how, pattern in REASONS if re.search(pattern, head)), "")
    src = source_of(record, head, story)
    dst = destination_of(head, story, src)
    if not how or not src or not dst or src == dst:
        return None
    waited = _PATIENCE.search(head) if how in ("unconnected", "unanswered") else None
    begun_s = record.time_s - (float(waited["s"]) - ROUNDED_S) if waited else record.time_s
    return Complaint(record, src, dst, how, said_before(begun_s, story) if src == story.controller else begun_s)


def said_before(time_s: float, story: Story) -> float:
    """When the controller said what it was about to do: it says so just before it calls."""
    told = [r.time_s for r in story.records[story.controller] if time_s - 2 * ROUNDED_S <= r.time_s <= time_s]
    return max(told, default=time_s)


def source_of(record: LogRecord, head: str, story: Story) -> str:
    """Who tried: who says it, unless the controller passes on what a worker answered."""
    if record.owner != story.controller:
        return record.owner if record.owner in story.vocabulary.roles else ""
    relayed = _RELAYED.search(head)
    if relayed:
        return story.component(relayed["src"])
    return "" if head.startswith("Non-retryable HTTP error") else story.controller


def destination_of(head: str, story: Story, src: str) -> str:
    """Whom it could not reach."""
    named = _CONNECTION.search(head) or _URL.search(head) or _CALLED.search(head)
    if named and (found := story.component(named["dst"])) and found != src:
        return found
    if src == story.controller:
        return story.component("scheduler") if re.search(r"SchedulerError|Error stopping job", head) else ""
    return next((story.component(role) for pattern, role in _ASKED if re.search(pattern, head)), "")
