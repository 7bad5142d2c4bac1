"""What metrics tell of the disk with the checkpoints: full, or slow to make anything durable."""

from __future__ import annotations

from collections.abc import Iterator

from diagnosis.gauges import Gauges, first, typical, value
from diagnosis.signs import CERTAIN, SEEN, Sign
from diagnosis.story import Story

#: What of the disk may be free for it to be full.
FULL_RATIO = 0.01
#: A write to the disk is slow from here on, seconds, and as so many times what it takes otherwise.
SLOW_S, SLOW_TIMES = 0.5, 10.0
#: A process that waits for the disk and cannot be woken.
WAITS_FOR_DISK, STUCK_SAMPLES = 2, 3


def disks(gauges: Gauges, story: Story) -> Iterator[Sign]:
    """All signs of this file. The accused is who writes there, the first of those who save."""
    yield from stuck(gauges, story)
    writer = writer_of(story, gauges)
    if writer:
        yield from full(gauges, writer)
        yield from slow(gauges, writer)


def stuck(gauges: Gauges, story: Story) -> Iterator[Sign]:
    """A process that waits for the disk, sample after sample: what it asked of it does not end."""
    if not gauges.fine:
        return
    for who, series in gauges.of("process_state").items():
        waits = [value(sample) == WAITS_FOR_DISK for sample in series]
        for index in range(len(waits) - STUCK_SAMPLES + 1):
            if all(waits[index : index + STUCK_SAMPLES]) and who in story.vocabulary.roles:
                since_s = series[index - 1].time_s if index else 0.0
                why = f"{who} waited for the disk and could not be woken"
                yield Sign("disk", who, ("io-contention", "disk-fill"), CERTAIN, series[index].time_s, why, since_s=since_s)
                break


def writer_of(story: Story, gauges: Gauges | None = None) -> str:
    """Who writes checkpoints: who tells of their size, else whom a save takes longest; the others have nothing to write."""
    tells = sorted(gauges.of("checkpoint_s")) if gauges else []
    took: dict[str, list[float]] = {}
    for work in story.works:
        if work.what == "save":
            took.setdefault(work.component, []).append(work.took_s)
    saved = sorted(took, key=lambda who: (-typical(took[who]), who))
    return next(iter([*tells, *saved, *story.vocabulary.of_role("train")]), "")


def full(gauges: Gauges, writer: str) -> Iterator[Sign]:
    """Next to nothing is free."""
    total = {name: max(map(value, series), default=0.0) for name, series in gauges.of("disk_total_bytes").items()}
    for name, series in gauges.of("disk_free_bytes").items():
        bound = FULL_RATIO * total.get(name, 0.0)
        found = first(series, lambda sample, bound=bound: value(sample) < bound)  # type: ignore[misc]
        if found:
            since_s = found[0] if gauges.fine else 0.0
            yield Sign("disk", writer, ("disk-fill",), CERTAIN, found[1], f"the disk of {name} was full", since_s=since_s)


def slow(gauges: Gauges, writer: str) -> Iterator[Sign]:
    """What is written does not become durable, or takes many times as long as otherwise."""
    for name, series in gauges.of("disk_fsync_waiting_s").items():
        waits = next((sample for sample in series if value(sample) > SLOW_S), None)
        if waits:
            begun_s = waits.time_s - value(waits)
            answered = [sample for sample in gauges.one("disk_fsync_s", name) if sample.time_s <= begun_s]
            why = f"the disk of {name} was slow: a small write waited for more than {SLOW_S} s"
            since_s = answered[-1].time_s if answered else 0.0
            # It may have struck while the write was under way, which otherwise takes so long.
            time_s = begun_s + typical([value(sample) for sample in answered])
            yield Sign("disk", writer, ("io-contention", "disk-fill"), SEEN, time_s, why, since_s=since_s)
    for metric in ("disk_fsync_s", "disk_write_latency_s"):
        for name, series in gauges.of(metric).items():
            bound = max(SLOW_S, SLOW_TIMES * typical([value(sample) for sample in series if value(sample) > 0][:1]))
            found = first(series, lambda sample, bound=bound: value(sample) > bound)  # type: ignore[misc]
            if found:
                why = f"the disk of {name} was slow: {metric} above {bound:.2g}"
                yield Sign("disk", writer, ("io-contention", "disk-fill"), SEEN, found[1], why, since_s=found[0])
