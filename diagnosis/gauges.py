"""Signs read off metrics: a process that is stopped or was killed for want of memory, a link that does not carry.

From T2 up. Samples that were missed say nothing; a state counts only when it lasts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from statistics import median

from diagnosis.reader import Reader, Sample
from diagnosis.signs import Sign, deaths
from diagnosis.story import Story

#: Code of a stopped process in `process_state`.
STOPPED = 3
#: Samples in a row that make a state.
LASTING = 3
#: Round trips many times as long as the link's own before and as those of links at large.
SLOW_LINK = 10.0
#: A round trip that is a smaller part of a step than this costs the job nothing.
MATTERS = 0.2
#: A queue of less is requests in flight, not a backlog.
BACKLOG_BYTES = 1448


def gauges(reader: Reader, story: Story) -> Iterator[Sign]:
    """All that the tier's metrics tell."""
    yield from stopped(reader, story)
    yield from out_of_memory(reader, story)
    yield from full_disks(reader, story)
    yield from links(reader, story)


def stopped(reader: Reader, story: Story) -> Iterator[Sign]:
    """A process that did not run and was not asleep: somebody stopped it."""
    for who, samples in _by_subject(reader, "process_state").items():
        begun = _lasting(samples, lambda sample: (sample.value or 0) >= STOPPED - 0.5)
        if begun is not None and who in story.vocabulary.roles:
            yield _sign(story, who, begun, ("process-pause",), 6.0, f"{who} was stopped")


def out_of_memory(reader: Reader, story: Story) -> Iterator[Sign]:
    """The kernel killed a process of the component's group for want of memory."""
    for who, samples in _by_subject(reader, "group_oom_kills").items():
        killed = next((sample.time_s for sample in samples if sample.value), None)
        if killed is not None and who in story.vocabulary.roles:
            # Coarse metrics tell that, the logs tell when.
            when = next((sign.time_s for sign in deaths(story) if sign.component == who and sign.time_s >= killed), killed)
            yield _sign(story, who, when, ("memory-pressure",), 7.0, f"a process of {who} was killed for want of memory")


def full_disks(reader: Reader, story: Story) -> Iterator[Sign]:
    """A disk with next to nothing free; whoever was saving then, or the first who saves, is who it struck."""
    total = {name: samples[0].value or 0 for name, samples in _by_subject(reader, "disk_total_bytes").items()}
    savers = [work.component for work in story.works if work.what == "save"]
    for name, samples in _by_subject(reader, "disk_free_bytes").items():
        full = _lasting(samples, lambda s, n=name: s.value is not None and s.value < 0.01 * total.get(n, 0))  # type: ignore[misc]
        if full is not None and savers:
            yield Sign("gauge", min(savers), "checkpoint", full, ("disk-fill",), 2.5, f"the disk of {name} was full")


def links(reader: Reader, story: Story) -> Iterator[Sign]:
    """A backlog that nobody acknowledges, one that drains slowly, and a round trip that became long."""
    acked, round_trip = _by_subject(reader, "link_acked_bytes_per_s"), _by_subject(reader, "link_rtt_s")
    usual = median([s.value for samples in round_trip.values() for s in samples if s.value] or [0.0])
    for name, samples in _by_subject(reader, "link_send_queue_bytes").items():
        src, _, rest = name.partition(">")
        dst = rest.partition(":")[0]
        if src not in story.vocabulary.roles:
            continue
        flowing = {sample.time_s: sample.value or 0 for sample in acked.get(name, ())}
        dead = _lasting(samples, lambda s, f=flowing: bool(s.value) and f.get(s.time_s, 1) == 0)  # type: ignore[misc]
        slow = _lasting(samples, lambda s, f=flowing: (s.value or 0) > BACKLOG_BYTES and f.get(s.time_s, 0) > 0)  # type: ignore[misc]
        late = _late(round_trip.get(name, []), max(SLOW_LINK * usual, MATTERS * story.step_s))
        for begun, kinds, what in (
            (late if slow is None else None, ("network-delay", "network-loss"), "has long round trips"),
            (slow, ("network-bandwidth", "network-loss"), "drains slowly"),
            (dead if late is None else None, ("network-partition", "network-reset"), "is acknowledged nothing"),
        ):
            if begun is not None and begun < story.ending_s:
                yield Sign("gauge", src, story.at(begun)[0], begun, kinds, 4.5, f"{name} {what}", dst)
                break


def _late(samples: list[Sample], least: float) -> float | None:
    """When round trips became many times what they had been on this link, and longer than ``least`` seconds."""
    values = [sample.value for sample in samples if sample.value]
    if not values:
        return None
    bound = max(least, SLOW_LINK * min(values))
    return _lasting(samples, lambda sample: (sample.value or 0) > bound)


def _lasting(samples: list[Sample], holds: Callable[[Sample], bool]) -> float | None:
    """When the first spell of at least `LASTING` samples for which it holds began; None without one."""
    spell: list[float] = []
    for sample in samples:
        spell = [*spell, sample.time_s] if holds(sample) else []
        if len(spell) == LASTING:
            return spell[0]
    return None


def _by_subject(reader: Reader, metric: str) -> dict[str, list[Sample]]:
    found: dict[str, list[Sample]] = defaultdict(list)
    for sample in reader.query_metric(metric):
        found[sample.subject].append(sample)
    return dict(found)


def _sign(story: Story, who: str, time_s: float, kinds: tuple[str, ...], strength: float, why: str) -> Sign:
    return Sign("gauge", who, story.at(time_s)[0], time_s, kinds, strength, why)
