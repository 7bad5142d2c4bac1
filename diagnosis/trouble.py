"""Whether the job suffered at all, and from when on: errors, work sent again, stages far beyond their usual time.

What leaves no trace in the job's own course is no fault, however odd a figure looks: machines are uneven, and a burst that
nobody waited for harms nobody.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

from diagnosis.reader import LogRecord
from diagnosis.story import EVENTS, Opening, Story, Work

#: A stage is overlong from so many times its usual time on, when that is so many seconds beyond it.
TIMES, BEYOND_S = 6.0, 0.75
#: What nobody complained of harmed nobody, unless it cost so many seconds and the time of a whole step.
UNTOLD_S = 2.5
#: A step is slow that takes so many times the usual, and so much longer, though no stage of it stands out.
STEP_TIMES = 3.0
#: Shorter than this nothing is slow: the log's clock and the machine's scheduler are no finer.
FLOOR_S = 0.02
#: Steps before the first trouble in which its cause may lie, and at least so many seconds.
EARLIER_STEPS, EARLIER_S = 2.0, 3.0
#: From when on there is nothing more to learn, seconds after the first trouble.
LATER_S = 40.0


@dataclass(frozen=True)
class Span:
    """A stage of one step from its announcement to the next one."""

    opening: Opening
    end_s: float
    usual_s: float

    @property
    def took_s(self) -> float:
        """Seconds."""
        return self.end_s - self.opening.time_s

    @property
    def overlong(self) -> bool:
        """See `is_long`."""
        return is_long(self.took_s, self.usual_s)


@dataclass(frozen=True)
class Trouble:
    """When it first showed, and in what."""

    time_s: float
    why: str
    told: bool
    """whether anybody said so, then or later; else something merely took long"""


def spans(story: Story) -> list[Span]:
    """Every announced part of a step with what such a part takes otherwise."""
    ends = [opening.time_s for opening in story.openings[1:]] + [min(story.ending_s, story.last_s)]
    found = [(opening, end_s) for opening, end_s in zip(story.openings, ends, strict=True) if opening.step >= 1]
    times: dict[str, list[float]] = {}
    for opening, end_s in found:
        times.setdefault(opening.event or opening.stage, []).append(end_s - opening.time_s)
    usual = {what: usual_s(took) for what, took in times.items()}
    return [Span(opening, end_s, usual[opening.event or opening.stage]) for opening, end_s in found]


def first_trouble(story: Story) -> Trouble | None:
    """The first thing that went wrong; None when nothing did."""
    found = [Trouble(record.time_s, _why(record), told=True) for record in warnings(story)[:1]]
    lost_s = max(UNTOLD_S, story.step_s)
    slow = [span for span in spans(story) if span.overlong and span.took_s >= span.usual_s + lost_s]
    late = [work for work in overlong(story) if span_of(work) >= lost_s]
    found += [Trouble(span.opening.time_s, f"{span.opening.stage} took long", told=False) for span in slow[:1]]
    found += [Trouble(work.end_s - work.took_s - work.lag_s, f"{work.what} took long", told=False) for work in late[:1]]
    if story.failed:
        found.append(Trouble(min(story.ending_s, story.last_s), "the job ended early", told=True))
    # That it was slow says less of when than all else: only where there is nothing else.
    found = found or [Trouble(begun_s, "a step took long", told=False) for begun_s in slow_steps(story)[:1]]
    first = min(found, key=lambda trouble: trouble.time_s, default=None)
    return first and replace(first, told=any(trouble.told for trouble in found))


def slow_steps(story: Story) -> list[float]:
    """When each step began that took many times the usual: what slows all stages somewhat makes none of them overlong."""
    begins = [opening.time_s for opening in story.openings if opening.stage == "weights_update" and opening.step >= 1]
    took = list(pairwise([*begins, min(story.ending_s, story.last_s)]))
    usual = usual_s([end_s - begun_s for begun_s, end_s in took]) if took else 0.0
    return [begun_s for begun_s, end_s in took if end_s - begun_s >= max(STEP_TIMES * usual, usual + UNTOLD_S)]


def overlong(story: Story) -> list[Work]:
    """Work, and what was told to workers, that took many times the usual, by time."""
    times: dict[str, list[float]] = {}
    for work in story.works:
        times.setdefault(work.what, []).append(span_of(work))
    usual = {what: usual_s(took) for what, took in times.items()}
    found = [work for work in story.works if work.step >= 1 and work.stage and is_long(span_of(work), usual[work.what])]
    return sorted(found, key=lambda work: work.end_s - span_of(work))


def usual_s(took: list[float]) -> float:
    """What something takes when nothing holds it up: the quarter that was fastest, since what lasts may be most of a run."""
    return max(sorted(took)[len(took) // 4], FLOOR_S)


def span_of(work: Work) -> float:
    """Seconds that it took; of an event until it was heard."""
    return work.lag_s if work.what in EVENTS else work.took_s


def is_long(took_s: float, usual_s: float) -> bool:
    """Many times the usual, and long enough to be felt."""
    return took_s >= max(TIMES * usual_s, usual_s + BEYOND_S)


def warnings(story: Story) -> list[LogRecord]:
    """What was logged as a warning or worse, by time; of the job's ending errors alone, since processes are ended then."""
    return [
        record
        for record in story.everything
        if record.logged_as_error or (record.level == "WARNING" and record.time_s < story.ending_s)
    ]


def window(story: Story, trouble: Trouble) -> tuple[float, float]:
    """From when to when metrics are worth a look."""
    earlier_s = max(EARLIER_S, EARLIER_STEPS * story.step_s)
    return trouble.time_s - earlier_s, trouble.time_s + LATER_S


def _why(record: LogRecord) -> str:
    return f"{record.path} line {record.line}"
