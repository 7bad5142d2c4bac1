"""What metrics tell of a process: that it stood still, was gone, was killed for want of memory, or wanted a core in vain."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean

from diagnosis.gauges import Gauges, Series, first, value
from diagnosis.signs import CERTAIN, STRONG, Sign
from diagnosis.story import EVENTS, Story, Work
from diagnosis.trouble import usual_s

#: Codes of `process_state`: running or waiting for a core, and stopped.
RUNNABLE, STOPPED = 0, 3
#: A mean over a while above this had stopped moments in it: who sleeps or runs has 0 to 1, and rarely waits for a disk.
STOPPED_MEAN = 1.1
#: A process starves that is runnable in so much of at least so many samples of slow work, and gets less than this of a core.
STARVED_SAMPLES, STARVED_RUNNABLE, STARVED_CORES = 4, 0.6, 0.4
#: Work is slow from so many times the usual on, and so many seconds.
SLOW_TIMES, SLOW_S = 3.0, 0.25


def processes(gauges: Gauges, story: Story) -> Iterator[Sign]:
    """All signs of this file."""
    yield from stopped(gauges, story)
    yield from gone(gauges, story)
    yield from out_of_memory(gauges, story)
    yield from starved(gauges, story)


def stopped(gauges: Gauges, story: Story) -> Iterator[Sign]:
    """A process that did not run and was not asleep: somebody stopped it. Its kernel still answers for it.

    A mean cannot tell that from waiting for the disk; where one is seen to be slow, it is that.
    """
    bound = STOPPED - 0.5 if gauges.fine else STOPPED_MEAN
    for who, series in gauges.of("process_state").items():
        found = first(series, lambda sample: value(sample) >= bound)
        if found and who in story.vocabulary.roles:
            slow = not gauges.fine and any(value(s) > 0 for one in gauges.of("disk_fsync_waiting_s").values() for s in one)
            kinds = ("io-contention", "process-pause") if slow else ("process-pause",)
            yield Sign("process", who, kinds, CERTAIN + 1, found[1], f"{who} was stopped", since_s=found[0])


def gone(gauges: Gauges, story: Story) -> Iterator[Sign]:
    """A process that is no more before the job was ended."""
    if not gauges.fine:
        return
    for who, series in gauges.of("process_alive").items():
        found = first(series, lambda sample: value(sample) < 0.5)
        if found and who in story.vocabulary.roles and found[0] and found[1] < story.ending_s:
            why = f"{who} was there no more before the job was ended"
            yield Sign("process", who, ("process-kill", "memory-pressure"), CERTAIN, found[1], why, since_s=found[0])


def out_of_memory(gauges: Gauges, story: Story) -> Iterator[Sign]:
    """The kernel killed a process of the component's group for want of memory."""
    for who, series in gauges.of("group_oom_kills").items():
        least = min(map(value, series), default=0.0)
        found = first(series, lambda sample, least=least: value(sample) > least)  # type: ignore[misc]
        if found and who in story.vocabulary.roles:
            since_s = found[0] if gauges.fine else 0.0
            why = f"a process of {who} was killed for want of memory"
            yield Sign("process", who, ("memory-pressure",), CERTAIN + 2, found[1], why, since_s=since_s)


def starved(gauges: Gauges, story: Story) -> Iterator[Sign]:
    """A process that was runnable while its work took long, and got little of a core: others had it.

    Who waits for another sleeps meanwhile; who has more to do than usual uses its core.
    """
    if not gauges.fine:
        return
    usual: dict[str, list[float]] = {}
    for work in story.works:
        usual.setdefault(work.what, []).append(work.took_s)
    slow: dict[str, list[Work]] = {}
    for work in story.works:
        if work.what not in EVENTS and work.took_s >= max(SLOW_TIMES * usual_s(usual[work.what]), SLOW_S):
            slow.setdefault(work.component, []).append(work)
    for who, works in slow.items():
        states = during(gauges.one("process_state", who), works)
        used = during(gauges.one("cpu_ratio", who), works)
        runnable = [value(sample) == RUNNABLE for sample in states]
        if len(states) < STARVED_SAMPLES or fmean(runnable) < STARVED_RUNNABLE or not used:
            continue
        if fmean([value(sample) for sample in used]) <= STARVED_CORES:
            begun_s = works[0].end_s - works[0].took_s
            why = f"{who} wanted a core while its {works[0].what} took long, and got little of it"
            yield Sign("starvation", who, ("cpu-contention",), STRONG + 1, begun_s, why, stage=works[0].stage)


def during(series: Series, works: list[Work]) -> Series:
    """The samples that fall into the work."""
    return [s for s in series if any(work.end_s - work.took_s < s.time_s <= work.end_s for work in works)]
