"""What the course of the work tells: what a worker did not do, or did late, while its peers did; a stage that took long."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from diagnosis.signs import STRONG, Sign
from diagnosis.signs_words import KINDS_OF_SILENCE, alive_between
from diagnosis.story import EVENTS, STAGE_OF_WORK, Story, by_worker
from diagnosis.trouble import FLOOR_S, spans

#: Kinds that could keep a worker from this work, or slow it, when nothing else is known.
KINDS_OF_WORK: dict[str, tuple[str, ...]] = {
    "upload_weights": ("network-bandwidth", "network-delay", "network-loss", "network-partition"),
    "save": ("io-contention", "disk-fill", "cpu-contention"),
}
KINDS_OF_COMPUTE = ("cpu-contention", "process-pause", "memory-pressure")
KINDS_OF_LATENESS = ("network-delay", "network-loss", "network-bandwidth")
KINDS_OF_STAGE = {"weights_update": ("network-delay", "network-bandwidth", "network-loss"), "checkpoint": KINDS_OF_WORK["save"]}
#: Who does the work of a stage.
ROLE_OF_STAGE = {
    "weights_update": "train",
    "rollout": "rollout",
    "reference": "reference",
    "train": "train",
    "checkpoint": "train",
}

#: Times as long as one's own median, and as that of one's peers in the same step, from which work was slow.
SLOW_OWN, SLOW_PEER, SLOW_ALONE = 6.0, 4.0, 10.0
#: Work is not slow by less than this, seconds, however short it is otherwise.
LEAST_S = 0.25


def absences(story: Story) -> Iterator[Sign]:
    """Work of a step that a worker's peers finished and it did not, although it had done so in the step before."""
    works = by_worker(story.works)
    for (what, who), steps in works.items():
        peers = [done for (other, name), done in works.items() if other == what and name != who and what not in EVENTS]
        for step in sorted({step for done in peers for step in done} - steps.keys()):
            if step - 1 not in steps and step - 2 not in steps:
                continue
            opened = min(done[step].end_s - done[step].took_s for done in peers if step in done)
            silent = not alive_between(story, who, opened, story.ending_s)
            kinds = KINDS_OF_WORK.get(what) or (KINDS_OF_SILENCE if silent else KINDS_OF_COMPUTE)
            why = f"{who} did not finish {what} of step {step}, its peers did"
            usual = median([work.took_s for work in steps.values()])
            if what in STAGE_OF_WORK and opened < story.ending_s:
                seen = opened + SLOW_ALONE * max(usual, FLOOR_S)
                stage = STAGE_OF_WORK[what]
                yield Sign("absence", who, kinds, STRONG + 0.5, opened, why, store(story, what), stage, seen_s=seen)


def slowness(story: Story) -> Iterator[Sign]:
    """Work that took, or a message that needed, many times what it does otherwise, while the peers' did not."""
    works = by_worker(story.works)
    for (what, who), steps in works.items():
        for step, work in steps.items():
            others = [done for at, done in steps.items() if at != step and at > 0]
            peers = [done[step] for (other, name), done in works.items() if other == what and name != who and step in done]
            if step < 1 or len(others) < 2 or not work.stage:
                continue
            took = excess(work.took_s, [w.took_s for w in others], [w.took_s for w in peers])
            begun = work.end_s - work.took_s
            lag = excess(work.lag_s, [w.lag_s for w in others], [w.lag_s for w in peers])
            if lag and what in EVENTS:
                sent, why = begun - work.lag_s, f"{what} of step {step} reached {who} {lag:.0f} times later than otherwise"
                seen = sent + work.lag_s * SLOW_ALONE / max(lag, SLOW_ALONE)
                yield Sign(
                    "slowness", story.controller, KINDS_OF_LATENESS, STRONG + 0.5, sent, why, who, work.stage, seen_s=seen
                )
            if took and what not in EVENTS:
                # What came through was late and not cut.
                kinds = KINDS_OF_LATENESS if what == "upload_weights" else KINDS_OF_WORK.get(what, KINDS_OF_COMPUTE)
                why = f"{what} of step {step} took {who} {took:.0f} times as long as otherwise"
                seen = begun + work.took_s * SLOW_ALONE / max(took, SLOW_ALONE)
                yield Sign("slowness", who, kinds, STRONG + 0.5, begun, why, store(story, what), work.stage, seen_s=seen)


def delays(story: Story) -> Iterator[Sign]:
    """A stage that took many times as long as in other steps; whose fault it is, the controller's log alone does not tell."""
    for span in spans(story):
        if span.overlong and span.end_s < float("inf"):
            opening, event = span.opening, span.opening.event
            kinds = KINDS_OF_LATENESS if event else KINDS_OF_STAGE.get(opening.stage, KINDS_OF_COMPUTE)
            role = ROLE_OF_STAGE.get(opening.stage, "")
            times = f"{span.took_s / span.usual_s:.0f} times as long as otherwise"
            why = f"{event or opening.stage} of step {opening.step} took {times}"
            seen = opening.time_s + SLOW_ALONE * span.usual_s
            for who in (story.controller,) if event else story.vocabulary.of_role(role):
                yield Sign("delay", who, kinds, 1.5, opening.time_s, why, "", opening.stage, seen_s=seen)


def excess(value: float, own: list[float], peers: list[float]) -> float:
    """How many times the usual, if that is slow; else 0. Peers who are as slow wait for the same: then it is not this one."""
    usual = value / max(median(own), FLOOR_S)
    if value < median(own) + LEAST_S:
        return 0.0
    if peers:
        return usual if usual >= SLOW_OWN and value / max(median(peers), FLOOR_S) >= SLOW_PEER else 0.0
    return usual if usual >= SLOW_ALONE else 0.0


def store(story: Story, what: str) -> str:
    """The far end of the link that this work needs."""
    return next(iter(story.vocabulary.of_role("metaserver")), "") if what == "upload_weights" else ""
