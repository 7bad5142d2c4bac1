"""How a method that ranks columns of a table is asked about a case, blind, and what its ranking says in the lab's words.

Such methods want to be told when it began and compare what was before with what came after. Here that moment is the first alarm
(`diagnosis.deadlines`), never the truth's. What was before is the healthy runs that come with the case, from the first step to
the job's ending, and then the case's own until the alarm: 30 seconds of one run would be too little to tell what is usual.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from diagnosis.deadlines import first_alarm
from diagnosis.reader import Reader
from diagnosis.services import BEAT, Grid, Series, held, is_used, row_length, service_table
from diagnosis.story import Story
from diagnosis.vocabulary import Vocabulary
from storage.records import Cause, Diagnosis

#: The kinds that move a figure, likeliest first.
KINDS_OF_FIGURE: dict[str, tuple[str, ...]] = {
    "cpu": ("cpu-contention", "process-pause", "process-kill"),
    "mem": ("memory-pressure", "process-kill"),
    "diskio": ("io-contention", "disk-fill", "file-corruption"),
    "socket": ("network-reset", "process-kill", "network-partition"),
    "workload": ("network-bandwidth", "network-partition", "process-pause"),
    "latency": ("network-delay", "network-bandwidth", "network-loss", "dns-failure"),
    "error": ("process-kill", "network-partition", "network-reset"),
}

#: What does not vary is left out by these methods, and one value does not.
LEAST_ROWS = 2


@dataclass(frozen=True)
class Asked:
    """What a method is given: ``columns`` of equal length, of which the rows from ``row`` on are to be explained.

    ``indicator`` is the column in which users of the service would feel it; ``seed`` is of the case.
    """

    columns: dict[str, list[float]]
    row: int
    indicator: str
    seed: int


#: Columns by suspicion, the worst first.
Method = Callable[[Asked], list[str]]


def diagnose_by(method: Method, reader: Reader, vocabulary: Vocabulary) -> Diagnosis:
    """What the method's ranking says: services in its order, the stage in force at the alarm, kinds by the figure.

    Nothing is wrong without an alarm; it abstains without metrics, or with too few of them. Whatever the method
    raises is raised.
    """
    if not reader.list_metrics():
        return Diagnosis(fault=False, ranked=(), abstain=True, reason="no metrics in this tier")
    story = Story(reader, vocabulary)
    healthy = [Story(reader, vocabulary, run) for run in reader.healthy_runs()]
    alarm_s = first_alarm(story, healthy)
    if alarm_s is None:
        return Diagnosis(fault=False, ranked=(), reason="no stage was over its deadline, and no error")
    asked = question(reader, vocabulary, story, dict(zip(reader.healthy_runs(), healthy, strict=True)), alarm_s)
    rows = len(next(iter(asked.columns.values())))
    after = rows - asked.row
    if min(after, asked.row) < LEAST_ROWS:
        reason = f"{rows} rows, {after} of them since the alarm: too few to compare"
        return Diagnosis(fault=False, ranked=(), abstain=True, reason=reason)
    ranked = method(asked)
    # An error that ends the job was raised in the stage before its ending.
    stage = story.at(min(alarm_s, story.ending_s - 0.001))[0]
    return Diagnosis(
        fault=True,
        ranked=causes_of(ranked, stage, vocabulary),
        reason=f"{ranked[0]} of {len(ranked)} columns, {after} rows since the alarm",
        alarm=datetime.fromtimestamp(alarm_s, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3],
    )


def question(reader: Reader, vocabulary: Vocabulary, story: Story, healthy: dict[str, Story], alarm_s: float) -> Asked:
    """Healthy runs and the case's own one below the other, columns in an order drawn from the case.

    The order is drawn because a method that fails, or finds nothing, may answer in the order that it was given. Columns that
    a run lacks are left out.
    """
    series = series_of(reader)
    row_s = row_length(series)
    grid = grid_of(series, story, row_s)
    tables = []
    for run, told in healthy.items():
        beside = series_of(reader, run)
        tables.append(service_table(beside, vocabulary.components, grid_of(beside, told, row_s)))
    tables.append(service_table(series, vocabulary.components, grid))
    names = sorted(set.intersection(*map(set, tables)))
    draw = random.Random(vocabulary.case_id)  # noqa: S311 - an order that anyone can draw again, no secret
    draw.shuffle(names)
    columns = {name: [value for table in tables for value in held(table[name])] for name in names}
    # An error that ends the job at once leaves no rows after it: then the last ones are to be explained.
    since = min(max(grid.rows - grid.row_at(alarm_s), LEAST_ROWS), grid.rows)
    return Asked(
        columns=columns,
        row=len(columns[names[0]]) - since,
        # Of every stage the controller tells how long it took, so one column will do for all of them.
        indicator=f"{story.controller}_latency",
        seed=draw.getrandbits(32),
    )


def grid_of(series: Series, story: Story, row_s: float) -> Grid:
    """From the first stage until the job was ended, or until the last sample: what a job does before and after is no step.

    Rows begin where samples do, so that a mean over ten seconds is one row and not parts of two.
    """
    times = [sample[0] for samples in series.get(BEAT, {}).values() for sample in samples]
    first_s = story.openings[0].time_s if story.openings else min(times)
    begun_s = max((time_s for time_s in times if time_s <= first_s), default=min(times))
    return Grid(begun_s, min(story.ending_s, max(times) + row_s), row_s)


def series_of(reader: Reader, run: str = "") -> Series:
    """What the tier has of a run that any figure is made of."""
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for one in filter(lambda metric: is_used(metric.metric), reader.list_metrics(run)):
        subjects = found[one.metric] = defaultdict(list)
        for sample in reader.query_metric(one.metric, run=run):
            if sample.value is not None:
                subjects[sample.subject].append((sample.time_s, sample.value))
    return found


def causes_of(columns: list[str], stage: str, vocabulary: Vocabulary) -> tuple[Cause, ...]:
    """Each service with the likeliest kind of each of its figures in the order of the columns, then with the next kinds."""
    parted = [column.partition("_")[::2] for column in columns]
    kinds = {figure: [kind for kind in told if kind in vocabulary.kinds] for figure, told in KINDS_OF_FIGURE.items()}
    found = [
        Cause(service, stage, kinds[figure][place])
        for place in range(max(map(len, kinds.values())))
        for service, figure in parted
        if place < len(kinds[figure])
    ]
    return tuple(dict.fromkeys(found))
