"""``causal``: who was first in trouble that cannot be put down to somebody it waits for.

Signs of all kinds are gathered (`diagnosis.signs`), but only where the job suffered at all (`diagnosis.trouble`). What the
kernel says of a process explains what happened on its links, and both explain the complaints of those who wait: blame walks
upstream. Of what is left the surest sign decides, the earliest of equally sure ones; further signs about the same component
confirm it. With nothing but complaints of those who wait its confidence is low; without any sign it says that nothing is
wrong, or abstains when the job was ended by an error.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from diagnosis.chain import shortest_chain
from diagnosis.gauges import Gauges
from diagnosis.reader import Reader
from diagnosis.signs import CERTAIN, SEEN, STRONG, Sign, fused, placed
from diagnosis.signs_disk import disks
from diagnosis.signs_link import links
from diagnosis.signs_process import processes
from diagnosis.signs_words import calls, deaths, heedless, silences, words
from diagnosis.signs_work import absences, delays, slowness
from diagnosis.story import Story
from diagnosis.trouble import first_trouble, window
from diagnosis.vocabulary import Vocabulary
from storage.records import Cause, Diagnosis

SIGNALS = ("death", "words", "deafness", "absence", "slowness", "delay", "process", "starvation", "link", "disk")
#: Those that show what was done, and not only that somebody waited.
SHOWN = ("death", "words", "process", "starvation", "link", "disk")
#: What there was to read: the controller's log alone, all logs, metrics as means, metrics as sampled.
SIGHTS = ("one log", "logs", "means", "samples")
#: (right, of) in development by what there was to read, then by the most telling sign and the kind it tells.
DEVELOPMENT: dict[str, dict[str, tuple[int, int]]] = {
    "one log": {
        "deafness: io-contention": (1, 2),
        "deafness: network-partition": (2, 11),
        "deafness: process-pause": (3, 11),
        "death: process-kill": (4, 12),
        "delay: cpu-contention": (0, 1),
        "words: disk-fill": (0, 2),
        "words: memory-pressure": (0, 1),
        "words: network-reset": (1, 1),
    },
    "logs": {
        "deafness: network-partition": (2, 14),
        "deafness: process-pause": (1, 6),
        "death: process-kill": (8, 9),
        "death: process-pause": (3, 4),
        "delay: cpu-contention": (0, 1),
        "slowness: network-delay": (0, 1),
        "words: disk-fill": (0, 2),
        "words: memory-pressure": (0, 1),
        "words: network-reset": (4, 4),
    },
    "means": {
        "deafness: network-partition": (1, 6),
        "deafness: process-pause": (1, 2),
        "death: process-kill": (8, 9),
        "link: network-bandwidth": (2, 2),
        "link: network-delay": (2, 2),
        "link: network-loss": (2, 2),
        "link: network-partition": (4, 4),
        "process: io-contention": (1, 2),
        "process: process-pause": (3, 5),
        "slowness: network-delay": (0, 1),
        "words: disk-fill": (0, 2),
        "words: memory-pressure": (0, 1),
        "words: network-reset": (4, 4),
    },
    "samples": {
        "death: process-kill": (8, 8),
        "disk: disk-fill": (2, 2),
        "disk: io-contention": (2, 2),
        "link: network-bandwidth": (3, 3),
        "link: network-delay": (4, 4),
        "link: network-loss": (4, 4),
        "link: network-partition": (5, 7),
        "process: process-pause": (6, 6),
        "words: memory-pressure": (0, 1),
        "words: network-reset": (5, 5),
    },
}
#: A ground that was met but a few times counts for this many cases of its sight at large.
WORTH = 2
FALLBACK = ("process-kill", "memory-pressure", "network-delay", "network-bandwidth", "process-pause", "cpu-contention")
#: Two signs of the same moment may be told so far apart, seconds: samples are.
APART_S = 0.6


def diagnose(reader: Reader, vocabulary: Vocabulary) -> Diagnosis:
    """Causes by suspicion."""
    story = Story(reader, vocabulary)
    return decide(story, gathered(reader, story), sight_of(reader, story))


def sight_of(reader: Reader, story: Story) -> str:
    """One of `SIGHTS`."""
    if len(story.records) == 1:
        return SIGHTS[0]
    gauges = Gauges(reader)
    return SIGHTS[3] if gauges.fine else SIGHTS[2] if gauges.any else SIGHTS[1]


def gathered(reader: Reader, story: Story) -> list[Sign]:
    """Every sign that the tier shows; each kind of evidence can be left out to see what it is worth."""
    trouble = first_trouble(story)
    if trouble is None:
        return []
    gauges = Gauges(reader, *window(story, trouble))
    told = [sign for signs in (deaths, heedless, silences, words, absences, slowness, delays) for sign in signs(story)]
    seen = [sign for signs in (processes, links, disks) for sign in signs(gauges, story)]
    if not gauges.fine:  # a mean tells that, and not when: the logs do
        seen = [replace(sign, time_s=trouble.time_s, since_s=0.0) for sign in seen]
    signs = fused([*told, *calls(story, gauges), *seen])
    return [placed(sign, story) for sign in signs] if worth_blaming(signs, gauges, story, told=trouble.told) else []


def worth_blaming(signs: list[Sign], gauges: Gauges, story: Story, *, told: bool) -> bool:
    """Whether it was more than a slow moment of a busy machine.

    A job that did all its work, with complaints or without, had a fault only if something is seen that explains them, where
    there are samples to see it in; where there are none and nobody complained, something must at least stand out.
    """
    if story.failed or (told and not gauges.fine):
        return True
    return any(
        sign.strength >= STRONG + 1 and sign.signal in SHOWN if gauges.fine else sign.strength >= STRONG for sign in signs
    )


def decide(story: Story, signs: list[Sign], sight: str = SIGHTS[3]) -> Diagnosis:
    """What follows from the signs."""
    left = ranked_signs(unexplained(signs, story.vocabulary))
    if not left:
        return nobody(story)
    first, decisive = left[0], most_telling(left)
    return Diagnosis(
        fault=True,
        ranked=causes_of(left, story.vocabulary),
        confidence=confidence(decisive, sight),
        chain=shortest_chain(first.component, symptom(story), story.vocabulary.waits) or (first.component,),
        reason=f"{decisive.signal}: {decisive.why}",
        alarm=clock(min(sign.alarm_s for sign in signs if sign.time_s >= first.time_s)),
    )


def decisive_of(signs: list[Sign], vocabulary: Vocabulary) -> Sign:
    """The sign on which a diagnosis rests. Raises IndexError where there is none."""
    return most_telling(ranked_signs(unexplained(signs, vocabulary)))


def most_telling(left: list[Sign]) -> Sign:
    """Of the signs about the first suspect in its stage the one that tells best what was done."""
    return min((sign for sign in left if (sign.component, sign.stage) == (left[0].component, left[0].stage)), key=telling)


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
    """Whether one sign is what follows from the other."""
    return by_fate(cause, effect) or by_way(cause, effect) or by_waiting(cause, effect, waits)


def by_fate(cause: Sign, effect: Sign) -> bool:
    """A process that is stopped, gone or out of memory explains whatever its links and callers show from then on."""
    if cause.strength < CERTAIN or cause.peer or effect.strength >= CERTAIN:
        return False
    return cause.component in (effect.component, effect.peer) and effect.time_s > cause.time_s - APART_S and bool(effect.peer)


def by_way(cause: Sign, effect: Sign) -> bool:
    """A link that does not carry explains the silence of its ends, and complaints about them."""
    if cause.signal != "link" or effect.strength > cause.strength or effect.signal == "link":
        return False
    ends = {cause.component, cause.peer}
    return effect.component in ends and (not effect.peer or effect.peer in ends) and effect.time_s > cause.time_s - APART_S


def by_waiting(cause: Sign, effect: Sign, waits: set[tuple[str, str]]) -> bool:
    """The effect's component waits for the cause's in that stage, and the cause is the stronger or earlier one."""
    if cause.component == effect.component or cause.stage != effect.stage:
        return False
    mutual = (cause.component, effect.component) in waits
    before = cause.time_s <= effect.time_s + (APART_S if cause.strength >= SEEN else 0.0) and cause.strength >= effect.strength
    return (effect.component, cause.component) in waits and before and not (mutual and cause.strength == effect.strength)


def ranked_signs(signs: list[Sign]) -> list[Sign]:
    """The surest first, of about equally sure ones the earliest; complaints by strength and time."""
    return sorted(signs, key=lambda sign: (rank_of(sign), -sign.strength if sign.strength < STRONG else 0.0, sign.time_s))


def rank_of(sign: Sign) -> int:
    """In which of four classes of sureness a sign is, the surest 0."""
    return sum(sign.strength < bound for bound in (STRONG, STRONG + 1, SEEN))


def causes_of(signs: list[Sign], vocabulary: Vocabulary) -> tuple[Cause, ...]:
    """Each suspect, at the stage of its first sign, with the kinds of all its signs, the most telling first."""
    found: list[Cause] = []
    for suspect in dict.fromkeys(sign.component for sign in signs):
        own = [sign for sign in signs if sign.component == suspect]
        best = sorted(own, key=lambda sign: (sign.stage != own[0].stage, telling(sign)))
        kinds = dict.fromkeys(kind for sign in best for kind in sign.kinds)
        found += [Cause(suspect, own[0].stage, kind) for kind in kinds if kind in vocabulary.kinds]
    rest = [Cause(found[0].component, found[0].stage, kind) for kind in FALLBACK if kind in vocabulary.kinds]
    return tuple(dict.fromkeys([*found, *rest]))


def telling(sign: Sign) -> float:
    """How well a sign tells what was done, the best first: as surely as it accuses; a mere lack of signs of life last."""
    return 0.0 if sign.signal == "absence" and not sign.peer else -sign.strength


def confidence(sign: Sign, sight: str) -> float:
    """How often a first cause by such a sign, for such a kind, was right in development; where few were met, drawn towards
    how often any was that had as much to read.
    """
    met = DEVELOPMENT[sight]
    large = (sum(right for right, _ in met.values()) + 1) / (sum(n for _, n in met.values()) + 2)
    right, n = met.get(ground(sign), (0, 0))
    return (right + WORTH * large) / (n + WORTH)


def ground(sign: Sign) -> str:
    """On what a diagnosis rests: a signal, and the kind it tells first."""
    return f"{sign.signal}: {next(iter(sign.kinds), 'nothing')}"


def symptom(story: Story) -> str:
    """Where the error came out: in the stage and step of the controller's last error, who had the first."""
    records = [r for log in story.records.values() for r in log if r.logged_as_error and r.time_s != story.ending_s]
    placed = [(story.at(record.time_s), record) for record in sorted(records, key=lambda record: record.time)]
    last = next((place for place, record in reversed(placed) if record.owner == story.controller), None)
    return next((record.owner for place, record in placed if place == last), story.controller)


def clock(time_s: float) -> str:
    """The case's clock as its logs write it."""
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
