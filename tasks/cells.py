"""Which runs a published set is made of: drawn by one seed, in three sorts, each with cells to spare.

Nothing was done in the *quiet* ones, something harmless in the *decoys*, and a fault was put into force in the *faulty* ones.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass

from injection.scenario import Scenario, is_control
from injection.sweep import HELD_OUT, split_of, sweep_cells
from tasks.healthy import MOST
from tasks.plan import Cell, job_of, load_scenario

#: The shares of cases in which nothing was done, and in which something harmless was: 25 to 35 % together. Where no scenario
#: is a decoy the quiet ones stand in for them.
QUIET_SHARE, DECOY_SHARE = 0.2, 0.1
QUIET, DECOY, FAULTY = "quiet", "decoy", "faulty"
DEVELOPMENT, HELD_OUT_SEED, HELD_OUT_SCENARIO = "development", "held-out-seed", "held-out-scenario"
HELD_OUT_SWEEP = "held-out-sweep"
#: A set is drawn with as many cells to spare as it has: most faults that somebody makes up do nothing to a job.
SPARE = 2

Pair = tuple[str, str]


@dataclass(frozen=True)
class Wanted:
    """A set as it was asked for. Cases with seeds from ``held_out_from`` on, or of ``held_out`` scenarios, are held out.

    The first seeds are the companions'; ``seeds`` more (or as many as it takes) are drawn from for cases. Of each scenario
    the arms named in ``arms`` are drawn, or all.
    """

    seed: int
    cases: int
    scenarios: tuple[str, ...]
    profile: str = "sealed"
    first_seed: int = 500
    seeds: int = 7
    held_out_from: int = 505
    held_out: tuple[str, ...] = ()
    arms: tuple[str, ...] = ()

    def has(self, scenario: Scenario) -> list[str]:
        """The arms of a scenario that were asked for; all where none is named."""
        return [arm for arm in scenario.arms if not self.arms or arm in self.arms]

    def split(self, cell: Cell) -> str:
        """The split of a case. Of the sweep the cell's name decides, whatever was asked."""
        if cell.scenario in self.held_out:
            return HELD_OUT_SCENARIO
        if cell.scenario in sweep_cells() and split_of(cell.scenario) == HELD_OUT:
            return HELD_OUT_SWEEP
        return HELD_OUT_SEED if cell.seed >= self.held_out_from else DEVELOPMENT


@dataclass(frozen=True)
class Sort:
    """Cells of one sort in the order in which they are taken, until ``count`` of them are cases."""

    name: str
    count: int
    cells: tuple[Cell, ...]


def draw_sorts(wanted: Wanted) -> list[Sort]:
    """Quiet, decoy and faulty cells: scenarios and arms in turn, none twice, none with a seed of the companions.

    A posture shows (it may have links of its own): so each arm's posture has its control in the draw, whether or not
    the scenario lists it. Raises ValueError where nothing can be drawn.
    """
    draw = random.Random(wanted.seed)  # noqa: S311 - a published draw, no secret
    pairs: dict[str, list[Pair]] = {QUIET: [], DECOY: [], FAULTY: []}
    for scenario in map(load_scenario, wanted.scenarios):
        pairs[QUIET] += [(scenario.name, arm) for arm in controls(scenario, wanted)]
        sort = DECOY if scenario.decoy else FAULTY
        pairs[sort] += [(scenario.name, arm) for arm in wanted.has(scenario) if not is_control(arm)]
    if not pairs[FAULTY]:
        raise ValueError("a set needs a scenario with a fault")
    decoys = round(wanted.cases * DECOY_SHARE) if pairs[DECOY] else 0
    calm = round(wanted.cases * (QUIET_SHARE + DECOY_SHARE))
    counts = {QUIET: calm - decoys, DECOY: decoys, FAULTY: wanted.cases - calm}
    return [Sort(sort, count, _in_turn(pairs[sort], count, wanted, draw)) for sort, count in counts.items()]


def draw_cells(wanted: Wanted) -> list[Cell]:
    """The cells that are taken first, in a mixed order: all of the set, if each of them becomes a case."""
    return [sort.cells[number] for sort, number in in_order(draw_sorts(wanted), wanted.seed)]


def in_order(sorts: list[Sort], seed: int) -> Iterator[tuple[Sort, int]]:
    """Which sort is next, and how many of it have come before; mixed, so that a set that is not finished is a set."""
    turns = [sort for sort in sorts for _ in range(sort.count)]
    random.Random(f"order {seed}").shuffle(turns)  # noqa: S311 - a published draw, no secret
    come = {sort.name: 0 for sort in sorts}
    for sort in turns:
        yield sort, come[sort.name]
        come[sort.name] += 1


def controls(scenario: Scenario, wanted: Wanted) -> list[str]:
    """The control arm of each posture that an arm that was asked for has, its own first."""
    postures = dict.fromkeys(scenario.posture_of(arm) for arm in wanted.has(scenario))
    return [scenario.control_of(posture) for posture in postures]


def companions(wanted: Wanted) -> list[Cell]:
    """The healthy runs that come with the cases: control runs of each job there is, at seeds of their own.

    Scenarios whose jobs are the same in a posture share them.
    """
    found: dict[str, Pair] = {}
    for scenario in map(load_scenario, wanted.scenarios):
        for arm in controls(scenario, wanted):
            found.setdefault(_job(scenario, arm), (scenario.name, arm))
    seeds = range(wanted.first_seed, wanted.first_seed + MOST)
    return [Cell(*pair, seed, wanted.profile) for pair in found.values() for seed in seeds]


def _job(scenario: Scenario, arm: str) -> str:
    job = job_of(scenario, scenario.posture_of(arm))
    return json.dumps([job, scenario.own_disk_mib, scenario.by_name], sort_keys=True)


def _in_turn(pairs: list[Pair], count: int, wanted: Wanted, draw: random.Random) -> tuple[Cell, ...]:
    if not count:
        return ()
    order = draw.sample(pairs, len(pairs))
    first, span = wanted.first_seed + MOST, max(wanted.seeds, -(-count * SPARE // len(pairs)))
    seeds = draw.sample(range(first, first + span), span)
    return tuple(Cell(*order[n % len(order)], seeds[n // len(order)], wanted.profile) for n in range(count * SPARE))
