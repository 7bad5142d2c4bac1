"""``causal``: who was first in trouble that cannot be put down to somebody it waits for.

Signs of all kinds are gathered (`diagnosis.signs`, `diagnosis.gauges`). A sign of a component that waits for an accused one, in
the same stage and not before it, is explained and dropped: blame walks upstream. What is left decides by time; further signs
about the same component confirm it. With nothing but complaints of those who wait its confidence is low; without any sign it
says that nothing is wrong, or abstains when the job was ended by an error.
"""

from __future__ import annotations

from datetime import UTC, datetime

from diagnosis.chain import shortest_chain
from diagnosis.gauges import gauges
from diagnosis.reader import Reader
from diagnosis.signs import CERTAIN, STRONG, Sign, absences, deafness, deaths, delays, slowness, words
from diagnosis.story import Story
from diagnosis.vocabulary import Vocabulary
from storage.records import Cause, Diagnosis

SIGNALS = ("death", "words", "deafness", "absence", "slowness", "delay", "gauge")
#: (right, of) by the most telling sign, of 75 development cases: with every tier, and with the controller's log alone.
DEVELOPMENT: dict[bool, dict[str, tuple[int, int]]] = {
    False: {"absence": (5, 5), "deafness": (8, 8), "gauge": (8, 8), "slowness": (14, 14), "words": (40, 40)},
    True: {"deafness": (15, 15), "death": (0, 10), "delay": (8, 10), "words": (40, 40)},
}
FALLBACK = ("process-kill", "memory-pressure", "network-delay", "network-bandwidth", "process-pause", "cpu-contention")


def diagnose(reader: Reader, vocabulary: Vocabulary) -> Diagnosis:
    """Causes by suspicion."""
    story = Story(reader, vocabulary)
    return decide(story, gathered(reader, story))


def gathered(reader: Reader, story: Story) -> list[Sign]:
    """Every sign that the tier shows; each kind of evidence can be left out to see what it is worth."""
    read = (deaths, words, deafness, absences, slowness, delays)
    return [sign for signs in read for sign in signs(story)] + list(gauges(reader, story))


def decide(story: Story, signs: list[Sign]) -> Diagnosis:
    """What follows from the signs."""
    left = ranked_signs(unexplained(signs, story.vocabulary))
    if not left:
        return nobody(story)
    first = left[0]
    decisive = min((sign for sign in left if sign.component == first.component), key=telling)
    return Diagnosis(
        fault=True,
        ranked=causes_of(left, story.vocabulary),
        confidence=confidence(decisive, blind=len(story.records) == 1),
        chain=shortest_chain(first.component, symptom(story), story.vocabulary.waits) or (first.component,),
        reason=f"{decisive.signal}: {decisive.why}",
        alarm=clock(min(sign.alarm_s for sign in signs if sign.time_s >= first.time_s)),
    )


def nobody(story: Story) -> Diagnosis:
    """No sign at all: nothing is wrong, unless the job was ended by an error, which is more than this method understands."""
    if story.failed:
        return Diagnosis(fault=False, ranked=(), abstain=True, reason="the job was ended by an error that accuses nobody")
    return Diagnosis(fault=False, ranked=(), reason="no sign of trouble")


def unexplained(signs: list[Sign], vocabulary: Vocabulary) -> list[Sign]:
    """Without the signs of those who merely waited for somebody else in trouble."""
    waits = set(vocabulary.waits)
    return [sign for sign in signs if not any(explains(other, sign, waits) for other in signs)]


def explains(cause: Sign, effect: Sign, waits: set[tuple[str, str]]) -> bool:
    """Whether the effect's component waits for the cause's in that stage, and the cause is the stronger or earlier one."""
    if cause.component == effect.component or cause.stage != effect.stage:
        return False
    mutual = (cause.component, effect.component) in waits
    before = cause.time_s <= effect.time_s and cause.strength >= effect.strength
    return (effect.component, cause.component) in waits and before and not (mutual and cause.strength == effect.strength)


def ranked_signs(signs: list[Sign]) -> list[Sign]:
    """Those that can carry a diagnosis by time, then the complaints by strength and time."""
    return sorted(signs, key=lambda s: (s.strength < STRONG, -s.strength if s.strength < STRONG else 0.0, s.time_s))


def causes_of(signs: list[Sign], vocabulary: Vocabulary) -> tuple[Cause, ...]:
    """Each suspect, at the stage of its first sign, with the kinds of all its signs, the most telling first."""
    found: list[Cause] = []
    for suspect in dict.fromkeys(sign.component for sign in signs):
        own = [sign for sign in signs if sign.component == suspect]
        kinds = dict.fromkeys(kind for sign in sorted(own, key=telling) for kind in sign.kinds)
        # Samples are further apart than stages: logs tell better where it began.
        stage = next((sign for sign in own if sign.signal != "gauge"), own[0]).stage
        found += [Cause(suspect, stage, kind) for kind in kinds if kind in vocabulary.kinds]
    rest = [Cause(found[0].component, found[0].stage, kind) for kind in FALLBACK if kind in vocabulary.kinds]
    return tuple(dict.fromkeys([*found, *rest]))


def telling(sign: Sign) -> int:
    """How well a sign tells what was done: own words and the kernel's counts first, a mere lack of signs of life last."""
    if sign.signal == "words" or (sign.signal == "gauge" and sign.strength > CERTAIN):
        return 0
    silence = sign.signal == "absence" and not sign.peer
    return 2 if silence or sign.strength < STRONG else 1


def confidence(sign: Sign, *, blind: bool) -> float:
    """How often a first cause by such a sign was right in development, by Laplace's rule; ``blind`` with one log alone."""
    right, n = DEVELOPMENT[blind].get(sign.signal, (0, 0))
    return (right + 1) / (n + 2)


def symptom(story: Story) -> str:
    """Where the error came out: in the stage and step of the controller's last error, who had the first."""
    records = [r for log in story.records.values() for r in log if r.logged_as_error and r.time_s != story.ending_s]
    placed = [(story.at(record.time_s), record) for record in sorted(records, key=lambda record: record.time)]
    last = next((place for place, record in reversed(placed) if record.owner == story.controller), None)
    return next((record.owner for place, record in placed if place == last), story.controller)


def clock(time_s: float) -> str:
    """The case's clock as its logs write it."""
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
