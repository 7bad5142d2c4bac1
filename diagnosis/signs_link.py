"""What metrics tell of a link: cut, lossy, late or narrow, by what TCP does about each.

- cut: what was sent stays unacknowledged, is sent again at ever longer intervals, and new connections get no answer;
- lossy: segments are sent again while others are acknowledged, and round trips stay short;
- late: round trips are long, whatever else;
- narrow: a backlog drains at one rate, however long it lasts.

A reset leaves nothing that lasts: its words are in the logs (`diagnosis.signs_words`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from diagnosis.complaints import complaints
from diagnosis.gauges import Gauges, by_time, value
from diagnosis.reader import LogRecord
from diagnosis.signs import SEEN, STRONG, Sign
from diagnosis.story import Story
from diagnosis.trouble import spans

#: A queue of less is requests in flight, not a backlog: a segment.
BACKLOG_BYTES = 1448
#: A backlog drains at one rate when no sample acknowledges more than this many times the typical one.
STEADY, STEADY_SAMPLES, BACKLOG_SAMPLES = 3.0, 3, 4
#: A round trip is long from here on, seconds, and as so many times that of the other links at the time: a busy machine makes
#: all of them longer at once.
LONG_S, LONG_TIMES = 0.04, 5.0
#: Segments sent again within a beat: a busy machine makes a kernel probe once; many at once are sent again only where others
#: arrive.
RESENT, MANY = 1.5, 4.0
#: Beats that show it, from which on it is sure.
SURE = 2
#: For so long nothing at all was acknowledged, seconds: longer than the losses of a link that carries anything.
CUT_S = 0.6

#: Kinds, likeliest first, by what was seen.
KINDS: dict[str, tuple[str, ...]] = {
    "is narrow": ("network-bandwidth", "network-loss", "network-delay"),
    "is late": ("network-delay", "network-loss", "network-bandwidth"),
    "is cut": ("network-partition", "network-loss", "network-delay"),
    "loses": ("network-loss", "network-partition", "network-delay"),
}

_REQUEST = re.compile(r"request_id=(\w+)")


@dataclass(frozen=True)
class Beat:
    """One sample of a link: bytes not acknowledged, bytes a second acknowledged and received, segments sent again, dials."""

    time_s: float
    queue: float
    acked: float
    received: float
    resent: float
    dialling: float
    rtt_s: float

    @property
    def lost(self) -> bool:
        """Something was sent again, or dialled without an answer."""
        return self.resent > 0 or self.dialling > 0

    @property
    def carries(self) -> bool:
        """Something arrived, and nothing had to be sent again: an idle link says nothing of itself."""
        return (self.acked > 0 or self.received > 0) and not self.lost

    @property
    def stuck(self) -> bool:
        """Something is under way and nothing arrives."""
        return (self.queue > 0 or self.dialling > 0) and self.acked == 0


def links(gauges: Gauges, story: Story) -> Iterator[Sign]:
    """A sign for each link that does not carry as it should."""
    usual_s = usual_round_trips(gauges)
    long_s = [(span.opening.time_s, span.end_s) for span in spans(story) if span.overlong]
    for name in suspects(gauges, usual_s, long_s):
        src, _, rest = name.partition(">")
        dst = rest.partition(":")[0]
        beats = beats_of(gauges, name)
        what, bad = judged(beats, trickle(beats, long_s), gauges, usual_s, story.ending_s)
        if what and {src, dst} <= story.vocabulary.roles.keys():
            time_s = min(beat.time_s for beat in bad)
            before_s = [beat.time_s for beat in beats if beat.time_s < time_s and beat.carries and gauges.fine]
            sure = SEEN + 0.5 if len(bad) >= SURE else STRONG + 0.5
            since_s = before_s[-1] if before_s else 0.0
            what = mended(what, beats, story, src, dst)
            yield Sign("link", src, KINDS[what], sure, time_s, f"{name} {what}", dst, since_s=since_s)


def mended(what: str, beats: list[Beat], story: Story, src: str, dst: str) -> str:
    """A cut that was none, since a request that was not answered had arrived: its number is in the callee's log.

    In time, and its answer was lost; or after the caller had given up and while nothing was ever acknowledged: late.
    """
    if what != "is cut":
        return what
    asked = [
        (number, one.time_s)
        for one in complaints(story)
        if (one.src, one.dst) == (src, dst)
        for number in numbers_of(one.record)
    ]
    given_up = dict(asked)
    heard = [r.time_s - given_up[n] for r in story.records.get(dst, ()) for n in numbers_of(r) if n in given_up]
    if not heard:
        return what
    stuck = [beat.time_s for beat in beats if beat.stuck]
    acked = any(beat.acked > 0 for beat in beats if stuck and beat.time_s > stuck[0])
    return "loses" if min(heard) < 0 else what if acked else "is late"


def numbers_of(record: LogRecord) -> list[str]:
    """The numbers of the requests that a record is about."""
    return _REQUEST.findall(record.text)


def usual_round_trips(gauges: Gauges) -> dict[float, float]:
    """By time the middle one of all links' round trips."""
    found: dict[float, list[float]] = {}
    for series in gauges.of("link_rtt_s").values():
        for sample in series:
            found.setdefault(sample.time_s, []).append(value(sample))
    return {time_s: sorted(values)[len(values) // 2] for time_s, values in found.items()}


def suspects(gauges: Gauges, usual_s: dict[float, float], long_s: list[tuple[float, float]]) -> list[str]:
    """Links on which anything was sent again, dialled in vain, kept waiting, or slow to come back."""
    names = set()
    for metric in ("link_retransmits_per_s", "link_connecting"):
        names |= {name for name, series in gauges.of(metric).items() if any(value(sample) > 0 for sample in series)}
    for name, series in gauges.of("link_send_queue_bytes").items():
        waiting = [value(sample) > 0 for sample in series]
        names |= {name} if any(a and b for a, b in pairwise(waiting)) else set()
    for name, series in gauges.of("link_received_bytes_per_s").items():
        drops = [sample for sample in series if value(sample) > 0 and any(a < sample.time_s <= b for a, b in long_s)]
        names |= {name} if len(drops) >= BACKLOG_SAMPLES else set()
    for name, series in gauges.of("link_rtt_s").items():
        names |= {name} if any(is_long(value(s), usual_s.get(s.time_s, 0.0)) for s in series) else set()
    return sorted(names)


def is_long(rtt_s: float, usual_s: float) -> bool:
    """Whether a round trip is long beside those of the other links."""
    return rtt_s > max(LONG_S, LONG_TIMES * usual_s)


def beats_of(gauges: Gauges, name: str) -> list[Beat]:
    """The samples of a link, put together."""
    queue, acked, received, resent, dialling, rtt = (
        by_time(gauges.one(metric, name))
        for metric in (
            "link_send_queue_bytes",
            "link_acked_bytes_per_s",
            "link_received_bytes_per_s",
            "link_retransmits_per_s",
            "link_connecting",
            "link_rtt_s",
        )
    )
    times = sorted({*queue, *dialling})
    return [
        Beat(
            t,
            queue.get(t, 0.0),
            acked.get(t, 0.0),
            received.get(t, 0.0),
            resent.get(t, 0.0),
            dialling.get(t, 0.0),
            rtt.get(t, 0.0),
        )
        for t in times
    ]


def judged(
    beats: list[Beat], drops: list[Beat], gauges: Gauges, usual_s: dict[float, float], ending_s: float
) -> tuple[str, list[Beat]]:
    """What is wrong with a link ("": nothing), and the beats that show it."""
    span_s = gauges.beat_s if gauges.fine else 1.0
    late = [beat for beat in beats if is_long(beat.rtt_s, usual_s.get(beat.time_s, 0.0))]
    missing = [beat for beat in beats if (beat.stuck and beat.lost) or beat.resent * span_s >= RESENT]
    backlog = steady_backlog(beats, span_s) or drops
    if not gauges.fine:  # of a mean only that much can be told
        backlog = [beat for beat in late if beat.queue > BACKLOG_BYTES and beat.acked > 0]
    if backlog:
        return "is narrow", [*backlog, *missing]
    if late:
        return "is late", [*late, *missing]
    before_end = [beat for beat in beats if beat.time_s < ending_s]
    if longest_stuck_s(beats, span_s) >= CUT_S and not some_arrive(before_end, span_s):
        return "is late" if other_way(before_end) else "is cut", missing or [beat for beat in beats if beat.stuck]
    return ("loses", missing) if missing else ("", [])


def some_arrive(beats: list[Beat], span_s: float) -> bool:
    """Whether what was lost was not all: something was acknowledged in between, or many segments were sent again at once.

    Without any acknowledgement a kernel sends the first segment again and again, at doubling intervals, and no other.
    """
    lost = [beat.time_s for beat in beats if beat.stuck and beat.lost]
    between = any(beat.acked > 0 for beat in beats if lost and lost[0] < beat.time_s < lost[-1])
    return between or any(beat.resent * span_s >= MANY for beat in beats)


def other_way(beats: list[Beat]) -> bool:
    """Whether something came the other way while what had been sent was not acknowledged: a cut would have kept it off.

    Once something is acknowledged a cut is over; what a closed connection still has under way says nothing then.
    """
    lost = [beat.time_s for beat in beats if beat.stuck and beat.lost]
    if not lost:
        return False
    over_s = next((beat.time_s for beat in beats if beat.time_s > lost[0] and beat.acked > 0), float("inf"))
    return any(beat.received > 0 and beat.stuck for beat in beats if lost[0] < beat.time_s < over_s)


def longest_stuck_s(beats: list[Beat], beat_s: float) -> float:
    """For how long at most nothing was acknowledged although something was under way."""
    longest = run = 0
    for beat in beats:
        run = run + 1 if beat.stuck else 0
        longest = max(longest, run)
    return longest * beat_s


def steady_backlog(beats: list[Beat], span_s: float) -> list[Beat]:
    """The samples of a backlog that drained at one rate; none, if it did not, or there was none.

    A link that loses drains as slowly, but only what is sent again.
    """
    found: list[Beat] = []
    run: list[Beat] = []
    for beat in beats:
        run = [*run, beat] if beat.queue > BACKLOG_BYTES else []
        found = max(found, run, key=len)
    drained_bytes = sum(beat.acked for beat in found) * span_s
    again_bytes = sum(beat.resent for beat in found) * span_s * BACKLOG_BYTES
    # What the first of them acknowledged was partly sent before the backlog was there.
    even = steady([beat.acked for beat in found[1:]])
    return found if len(found) >= BACKLOG_SAMPLES and even and again_bytes < drained_bytes / 2 else []


def trickle(beats: list[Beat], stretches: list[tuple[float, float]]) -> list[Beat]:
    """The samples of an answer that came in drops, all of one size, while nothing was asked, within one overlong stage.

    What came so before that stage as well, as often, is no answer: signs of life are small and regular.
    """
    for since_s, until_s in stretches:
        drops = drops_in(beats, since_s, until_s)
        before = drops_in(beats, beats[0].time_s, since_s)
        often = len(before) * (until_s - since_s) >= len(drops) * max(since_s - beats[0].time_s, 0.0) / 2
        if len(drops) >= BACKLOG_SAMPLES and not (before and often) and steady([beat.received for beat in drops]):
            return drops
    return []


def drops_in(beats: list[Beat], since_s: float, until_s: float) -> list[Beat]:
    """The samples in which something came although nothing was sent."""
    return [beat for beat in beats if since_s < beat.time_s <= until_s and beat.received > 0 and beat.acked == 0]


def steady(rates: list[float]) -> bool:
    """Whether some flow was seen, and never much more than the typical one."""
    flows = sorted(rate for rate in rates if rate > 0)
    return len(flows) >= STEADY_SAMPLES and flows[-1] <= STEADY * flows[len(flows) // 2]
