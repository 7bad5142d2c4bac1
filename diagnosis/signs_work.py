"""What the course of the work tells: what a worker did not do, or did late, while its peers did; a stage that took long."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from statistics import median

from diagnosis.signs import STRONG, Sign
from diagnosis.signs_words import KINDS_OF_SILENCE, alive_between
from diagnosis.story import EVENTS, STAGE_OF_WORK, Story, Work
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
    for what, steps in by_step(story).items():
        workers = sorted({who for done in steps.values() for who in done})
        for step, done in steps.items():
            recent = steps.get(step - 1, {}).keys() | steps.get(step - 2, {}).keys()
            for who in [name for name in workers if name not in done and name in recent]:
                yield from absence(story, who, what, step, steps)


def absence(story: Story, who: str, what: str, step: int, steps: dict[int, dict[str, Work]]) -> Iterator[Sign]:
    """The sign of one piece of work that is missing, unless the job was being ended by then."""
    opened = min(work.end_s - work.took_s for work in steps[step].values())
    if opened >= story.ending_s or what not in STAGE_OF_WORK or what in EVENTS:
        return
    silent = not alive_between(story, who, opened, story.ending_s)
    kinds = KINDS_OF_WORK.get(what) or (KINDS_OF_SILENCE if silent else KINDS_OF_COMPUTE)
    usual = median([done[who].took_s for done in steps.values() if who in done])
    why, seen = f"{who} did not finish {what} of step {step}, its peers did", opened + SLOW_ALONE * max(usual, FLOOR_S)
    yield Sign("absence", who, kinds, STRONG + 0.5, opened, why, store(story, what), STAGE_OF_WORK[what], seen_s=seen)


def slowness(story: Story) -> Iterator[Sign]:
    """Work that took, or a message that needed, many times what it does otherwise, while the peers' did not."""
    for what, steps in by_step(story).items():
        spans = {step: {who: (w.took_s, w.lag_s) for who, w in done.items()} for step, done in steps.items() if step > 0}
        own: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for done in spans.values():
            for who, span in done.items():
                own[who].append(span)
        for step, done in spans.items():
            for who, span in done.items():
                others = [peer for name, peer in done.items() if name != who]
                if len(own[who]) > 2 and what in STAGE_OF_WORK and max(span) >= LEAST_S:
                    yield from slow(story, steps[step][who], own[who], others)


def slow(story: Story, work: Work, own: list[tuple[float, float]], peers: list[tuple[float, float]]) -> Iterator[Sign]:
    """The sign of one piece of work, or of one event that was heard late."""
    who, what, begun = work.component, work.what, work.end_s - work.took_s
    if what in EVENTS:
        lag = excess(work.lag_s, [lag for _, lag in own], [lag for _, lag in peers])
        if lag:
            sent, why = begun - work.lag_s, f"{what} of step {work.step} reached {who} {lag:.0f} times later than otherwise"
            seen = sent + work.lag_s * SLOW_ALONE / max(lag, SLOW_ALONE)
            yield Sign("slowness", story.controller, KINDS_OF_LATENESS, STRONG + 0.5, sent, why, who, work.stage, seen_s=seen)
        return
    took = excess(work.took_s, [took for took, _ in own], [took for took, _ in peers])
    if took:
        # What came through was late and not cut.
        kinds = KINDS_OF_LATENESS if what == "upload_weights" else KINDS_OF_WORK.get(what, KINDS_OF_COMPUTE)
        why = f"{what} of step {work.step} took {who} {took:.0f} times as long as otherwise"
        seen = begun + work.took_s * SLOW_ALONE / max(took, SLOW_ALONE)
        yield Sign("slowness", who, kinds, STRONG + 0.5, begun, why, store(story, what), work.stage, seen_s=seen)


def by_step(story: Story) -> dict[str, dict[int, dict[str, Work]]]:
    """What -> step -> worker -> the last such work of that step."""
    found: dict[str, dict[int, dict[str, Work]]] = defaultdict(lambda: defaultdict(dict))
    for work in story.works:
        found[work.what][work.step][work.component] = work
    return {what: dict(steps) for what, steps in found.items()}


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
