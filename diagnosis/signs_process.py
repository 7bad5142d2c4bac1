"""What metrics tell of a process: that it stood still, was gone, was killed for want of memory, or wanted a core in vain."""

from __future__ import annotations

from collections.abc import Iterator

from diagnosis.gauges import Gauges, Series, by_time, first, value
from diagnosis.signs import CERTAIN, STRONG, Sign
from diagnosis.story import Story

#: Codes of `process_state`: running or waiting for a core, and stopped.
RUNNABLE, STOPPED = 0, 3
#: A mean over a while above this had stopped moments in it: who sleeps or runs has 0 to 1, and rarely waits for a disk.
STOPPED_MEAN = 1.1
#: A process starves that is runnable in so many samples on end and gets less than this of a core meanwhile.
STARVED_SAMPLES, STARVED_CORES = 6, 0.35


def processes(gauges: Gauges, story: Story) -> Iterator[Sign]:
    """All signs of this file."""
    yield from stopped(gauges, story)
    yield from gone(gauges, story)
    yield from out_of_memory(gauges, story)
    yield from starved(gauges, story)


def stopped(gauges: Gauges, story: Story) -> Iterator[Sign]:
    """A process that did not run and was not asleep: somebody stopped it. Its kernel still answers for it."""
    bound = STOPPED - 0.5 if gauges.fine else STOPPED_MEAN
    for who, series in gauges.of("process_state").items():
        found = first(series, lambda sample: value(sample) >= bound)
        if found and who in story.vocabulary.roles:
            since_s, time_s = found
            alone = not gauges.fine  # a mean tells that, not when
            yield Sign(
                "process", who, ("process-pause",), CERTAIN + 1, time_s, f"{who} was stopped", since_s=0.0 if alone else since_s
            )


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
    """A process that wanted a core sample after sample and got little of it: others had it."""
    if not gauges.fine:
        return
    used = gauges.of("cpu_ratio")
    for who, states in gauges.of("process_state").items():
        if who not in story.vocabulary.roles:
            continue
        stretch = longest_hunger(states, by_time(used.get(who, [])))
        if len(stretch) >= STARVED_SAMPLES:
            why = f"{who} wanted a core for {stretch[-1].time_s - stretch[0].time_s:.1f}s and got little of it"
            since_s = stretch[0].time_s - gauges.beat_s
            yield Sign("starvation", who, ("cpu-contention",), STRONG + 1, stretch[0].time_s, why, since_s=since_s)


def longest_hunger(states: Series, used: dict[float, float]) -> Series:
    """The longest stretch of samples in which a process was runnable and had less than its share."""
    best: Series = []
    run: Series = []
    for sample in states:
        hungry = value(sample) == RUNNABLE and used.get(sample.time_s, 1.0) < STARVED_CORES
        run = [*run, sample] if hungry else []
        best = max(best, run, key=len)
    return best
