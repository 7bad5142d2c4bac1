"""What a sign is: one accusation, read off one kind of evidence, with the kinds of fault that could leave it.

A sign accuses a component (of a link its source, with the other end as peer). It holds the last moment at which all was
well and the first at which it was not, so that logs (milliseconds) and samples (several a second) can be put together: the
fault struck between the two. From `STRONG` on a sign can carry a diagnosis; weaker ones are complaints of those who wait.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace

from diagnosis.story import Story

#: A complaint that points at somebody; work that was late or missing; a resource seen to run short; what the kernel, or the
#: process itself, says in so many words.
COMPLAINT, STRONG, SEEN, CERTAIN = 2.0, 3.0, 4.5, 6.0

#: In which stages a process of a role does its work, the likeliest first.
WORKS_IN: dict[str, tuple[str, ...]] = {
    "train": ("train", "weights_update", "checkpoint"),
    "rollout": ("rollout", "weights_update"),
    "serving": ("rollout",),
    "reference": ("reference",),
    "reward": ("reward",),
    "metaserver": ("weights_update",),
    "scheduler": ("cleanup", "init"),
    "controller": ("weights_update", "rollout", "reference", "train", "checkpoint", "cleanup", "init"),
}
#: Kinds that are met where checkpoints are written or read.
OF_DISKS = ("disk-fill", "io-contention", "file-corruption")
#: In which stages a link carries anything, by the roles of its ends.
CARRIES_IN: dict[tuple[str, str], tuple[str, ...]] = {
    ("rollout", "reward"): ("reward",),
    ("rollout", "serving"): ("rollout", "weights_update"),
    ("controller", "scheduler"): ("cleanup", "init"),
}
#: Signs of what ends all that a process or link does. A rollout worker that had begun to sample was at its last stage then:
#: scoring, which it alone announces.
ENDS = ("death", "process", "link")
#: Signs whose times are those of the fault's own effect.
TIMED = (*ENDS, "deafness", "words", "disk")


@dataclass(frozen=True)
class Sign:
    """One accusation. ``signal`` is the kind of evidence it was read from.

    ``time_s`` is when trouble began to show and ``since_s`` when all was last known to be well (0: nothing is known of before);
    ``seen_s`` is when it could be known if that was later. ``stage`` is empty where the two times are to tell it.
    """

    signal: str
    component: str
    kinds: tuple[str, ...]
    strength: float
    time_s: float
    why: str
    peer: str = ""
    stage: str = ""
    since_s: float = 0.0
    seen_s: float = 0.0
    amid: bool = False
    """whether it struck while a call was being served, so that what the callee was at then is where"""

    @property
    def alarm_s(self) -> float:
        """When it could be known: at once, unless it took time to show."""
        return self.seen_s or self.time_s


def fused(signs: list[Sign]) -> list[Sign]:
    """The signs with what all of them about one process or link tell of when: well until, in trouble from."""
    groups: dict[tuple[str, str], list[Sign]] = defaultdict(list)
    for sign in signs:
        # What came late over a link was late on its way: of when, that tells as much as the link's own figures.
        if (sign.signal in TIMED and not sign.stage) or (sign.signal == "slowness" and sign.peer):
            groups[sign.component, sign.peer].append(sign)
    times = {who: min(sign.time_s for sign in group) for who, group in groups.items()}
    since = {who: max((s.since_s for s in group if s.since_s < times[who]), default=0.0) for who, group in groups.items()}
    return [
        replace(sign, time_s=times[who], since_s=since[who])
        if sign.signal in TIMED and not sign.stage and (who := (sign.component, sign.peer)) in times
        else sign
        for sign in signs
    ]


def placed(sign: Sign, story: Story) -> Sign:
    """The sign with the stage in which the fault struck."""
    if sign.stage:
        return sign
    stages = stages_of(sign, story)
    worker = sign.peer if sign.component == story.controller else sign.component
    if (sign.signal in ENDS or sign.amid) and story.at(sign.time_s)[0] == "rollout" and story.sampling(worker, sign.time_s):
        return replace(sign, stage="reward")
    if sign.peer:
        # A link is tried only where it has something to carry: what shows later began there.
        stage = story.struck(sign.since_s, sign.time_s, stages)
        return replace(sign, stage=stage if stage in stages else story.last_of(stages, sign.time_s) or stage)
    # A line of a process shows that it was well; it says nothing of a disk.
    well_s = sign.since_s if sign.signal == "disk" and sign.since_s else max(sign.since_s, last_word(story, sign))
    return replace(sign, stage=story.struck(well_s, sign.time_s, stages))


def stages_of(sign: Sign, story: Story) -> tuple[str, ...]:
    """In which stages the accused process or link has anything to do."""
    roles = story.vocabulary.roles
    if sign.kinds[:1] and sign.kinds[0] in OF_DISKS:
        return ("checkpoint", "weights_update")
    if not sign.peer:
        return WORKS_IN.get(roles.get(sign.component, ""), ())
    ends = roles.get(sign.component, ""), roles.get(sign.peer, "")
    if ends in CARRIES_IN:
        return CARRIES_IN[ends]
    return WORKS_IN.get(ends[1] if ends[0] == "controller" else ends[0], ()) if ends[1] != "metaserver" else ("weights_update",)


def last_word(story: Story, sign: Sign) -> float:
    """When an accused process last wrote to its log before the trouble; 0 when it never did."""
    told = [r.time_s for r in story.records.get(sign.component, ()) if r.time_s < sign.time_s]
    return told[-1] if told else 0.0
