"""``log-diff``: the first line of a kind that healthy logs do not hold.

Healthy are, where the tier has them, whole healthy runs; besides, in every tier, the job's own earlier steps and the logs of
workers of the same role. Lines are compared by their templates.
"""

from __future__ import annotations

from collections import Counter

from diagnosis.clues import causes, named_components, suggested_kinds, template, told_stage
from diagnosis.reader import LogRecord, Reader
from diagnosis.story import Story
from diagnosis.vocabulary import Vocabulary
from storage.records import Diagnosis

#: Steps in which a job still writes its lines for the first time.
WARM_UP = 2


def diagnose(reader: Reader, vocabulary: Vocabulary) -> Diagnosis:
    """Blames the owner of the earliest new line, or whom the controller names in it; no new line means no fault."""
    story = Story(reader, vocabulary)
    healthy = {run: Story(reader, vocabulary, run) for run in reader.healthy_runs()}
    known = {
        (vocabulary.roles[who], template(record.text))
        for told in healthy.values()
        for who, records in told.records.items()
        for record in records
    }
    fresh = [
        record for record in _new(story, vocabulary) if (vocabulary.roles[record.owner], template(record.text)) not in known
    ]
    if not fresh:
        return Diagnosis(fault=False, ranked=(), reason="no line of a new kind")
    first = min(fresh, key=lambda record: (record.time, record.path, record.line))
    named = named_components(first.text.split("\n", 1)[0], vocabulary)
    reports = first.owner == story.controller
    suspects = (*named, first.owner) if reports else (first.owner, *named)
    stage = told_stage(first.text.split("\n", 1)[0]) or story.at(first.time_s)[0]
    ranked = causes(suspects, stage, suggested_kinds(first.text, vocabulary))
    return Diagnosis(
        fault=True, ranked=ranked, reason=f"new: {first.path} line {first.line}: {first.text[:200]}", alarm=first.time
    )


def _new(story: Story, vocabulary: Vocabulary) -> list[LogRecord]:
    """Records after the warm-up and before the job's ending, of a template that no peer wrote nor the log itself before."""
    holders: Counter[tuple[str, str]] = Counter()
    for who, records in story.records.items():
        holders.update((vocabulary.roles[who], form) for form in {template(record.text) for record in records})
    found = []
    for who, records in story.records.items():
        seen: set[str] = set()
        for record in records:
            form = template(record.text)
            alone = holders[vocabulary.roles[who], form] == 1
            if form not in seen and alone and record.time_s < story.ending_s and story.at(record.time_s)[1] >= WARM_UP:
                found.append(record)
            seen.add(form)
    return found
