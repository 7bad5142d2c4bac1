"""Hundreds of `kill -9`s at random moments over the lab's processes, with every kind of fault: what is left, and for how long.

    python -m bench.kill_storm RESULTS.jsonl [--place PLACE] [--kills N] [--seed S]
    python -m bench.kill_storm RESULTS.jsonl --table

A *round* is the life of an injector and its watchdog in a standing place: a few faults are armed, fire, end. One of the lab's
processes is killed at a moment drawn from the whole of it. Each result is a line of RESULTS; a storm goes on where those end.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.kill_each import SCENARIO
from bench.storm_faults import draw
from bench.storm_round import ENDING, TOGETHER, Round, Site, victims
from tasks.plan import LEASE_S, load_scenario, make_plan

#: What is promised for every single kill, s: the lease, and five seconds for the undoing itself.
PROMISE_S = LEASE_S + 5.0
FAULTS_AT_ONCE = 4
DISK_MIB = 32
#: How long a round is taken to be before one was measured, s.
FIRST_ROUND_S = 3.0
#: The latest moment of a kill, in rounds as long as the last that was measured: rounds differ.
LATEST = 1.2
PLACES = ("virtual-cluster", "plain-host")


@dataclass(frozen=True)
class Kill:
    """What one kill came to. ``gone_s``: seconds until nothing was left; ``left``: what there still was in the end, in words.

    ``phase``: how far the round was; ``last``: what was seen last before there was nothing; ``swept``: what the next start's
    sweep left, where the kill ended the place. Of several killed together that is all that is looked at: ``gone_s`` is 0.
    """

    place: str
    seed: int
    number: int
    victim: str
    after_s: float
    phase: str
    kinds: list[str]
    in_force: list[str]
    gone_s: float
    last: list[str]
    left: list[str]
    swept: list[str]

    @property
    def kept(self) -> bool:
        """Whether the promise was: in time after a single kill, after the next sweep after several."""
        in_time = self.victim in TOGETHER or (not self.left and self.gone_s <= PROMISE_S)
        return in_time and not self.swept


class Storm:
    """Kills in one place, one after another; the site is made anew when a kill has ended it."""

    def __init__(self, place: str, seed: int, home: Path) -> None:
        self._place, self._seed, self._home = place, seed, home
        self._site: Site | None = None
        self._round_s = FIRST_ROUND_S

    def kill(self, number: int) -> Kill:
        """The kill of that number; where the round was over before it came, another moment is drawn."""
        dice = random.Random(f"{self._place} {self._seed} {number}")
        while True:
            names = victims(self._place)
            name, faults = names[number % len(names)], draw(self._place, FAULTS_AT_ONCE, dice)
            done = self._try(number, name, faults, LATEST * dice.random())
            if done:
                return done

    def _try(self, number: int, name: str, faults: list[dict[str, Any]], part: float) -> Kill | None:
        site = self._site = self._site or Site(self._plan(), self._home)
        after_s = part * self._round_s
        try:
            round_ = Round(site, faults)
            struck = round_.kill(name, after_s)
            if not struck:
                self._round_s = round_.took_s
                return None
            gone_s, left = round_.await_nothing()
            swept = site.sweep() if site.is_over(name) or left else []
        except BaseException:
            self._leave()
            raise
        if site.is_over(name) or left:
            self._leave()
        told = {
            "kinds": [fault["kind"] for fault in faults],
            "in_force": round_.in_force,
            "phase": round_.phase,
            "last": round_.last,
        }
        where = {"place": self._place, "seed": self._seed, "number": number, "victim": name, "after_s": round(after_s, 3)}
        return Kill(**where, **told, gone_s=round(gone_s, 3), left=left, swept=swept)

    def _plan(self) -> dict[str, Any]:
        plan = make_plan(load_scenario(SCENARIO), "legacy", self._seed, place=self._place)
        inside = self._place == "virtual-cluster"
        return {**plan, "faults": [], "disk_mib": DISK_MIB if inside else 0, "names": inside}

    def _leave(self) -> None:
        if self._site:
            self._site.close()
        self._site = None

    def close(self) -> None:
        """End the site that stands."""
        self._leave()


def read(path: Path) -> list[Kill]:
    """Results so far; a line that was being written when the storm ended is left out."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [Kill(**json.loads(line)) for line in lines if line.endswith("\n")]


def table(kills: list[Kill]) -> list[str]:
    """Rows of Markdown: place, killed, n, times, what was left."""
    heads = ["place", "killed", "n", "faults in force", "gone after, median", "worst", "left over", "after the next sweep"]
    rows = [heads, ["---"] * len(heads)]
    for place, victim in sorted({(kill.place, kill.victim) for kill in kills}):
        mine = [kill for kill in kills if (kill.place, kill.victim) == (place, victim)]
        times = sorted(kill.gone_s for kill in mine if not kill.left and victim not in TOGETHER)
        middle, worst = (f"{times[len(times) // 2]:.1f} s", f"{times[-1]:.1f} s") if times else ("-", "-")
        over = victim in ENDING or any(kill.left for kill in mine)
        left, swept = ("; ".join(sorted({one.split(":")[0] for one in found})) or "nothing" for found in _found(mine))
        left, swept = "-" if victim in TOGETHER else left, swept if over else "-"
        rows.append([place, victim, str(len(mine)), str(sum(len(kill.in_force) for kill in mine)), middle, worst, left, swept])
    return [f"| {' | '.join(row)} |" for row in rows]


def _found(kills: list[Kill]) -> tuple[list[str], list[str]]:
    return [one for kill in kills for one in kill.left], [one for kill in kills for one in kill.swept]


def coverage(kills: list[Kill]) -> list[str]:
    """Rows of Markdown: kind and means in force at the moment of a kill, how often; and the phases of the rounds."""
    kinds = Counter(f"{kill.place}: {one}" for kill in kills for one in kill.in_force)
    phases = Counter(kill.phase for kill in kills)
    rows = ["| place and fault | in force at a kill |", "| --- | --- |"]
    rows += [f"| {name} | {count} |" for name, count in sorted(kinds.items())]
    return [*rows, "", "Kills by phase: " + ", ".join(f"{name} {count}" for name, count in phases.most_common()) + "."]


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m bench.kill_storm", description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("--place", choices=PLACES, action="append")
    parser.add_argument("--kills", type=int, default=250, help="in each place")
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--table", action="store_true", help="print what there is and do nothing")
    given = parser.parse_args()
    for place in () if given.table else given.place or PLACES:
        storm(place, given.kills, given.seed, given.results)
    kills = read(given.results)
    print("\n".join([*table(kills), "", *coverage(kills)]))
    return 0 if all(kill.kept for kill in kills) else 1


def storm(place: str, count: int, seed: int, results: Path) -> None:
    """That many kills in a place, but for those that there are already."""
    have = {kill.number for kill in read(results) if (kill.place, kill.seed) == (place, seed)}
    home = Path(tempfile.mkdtemp(prefix="storm-"))
    os.environ["FAULTLINE_HOME"] = str(home)
    going = Storm(place, seed, home)
    try:
        for number in sorted(set(range(count)) - have):
            kill = going.kill(number)
            with results.open("a") as file:
                file.write(json.dumps(asdict(kill)) + "\n")
            print(
                f"{place} {number} {kill.victim} in {kill.phase}: {kill.gone_s:.2f} s {kill.left or ''} {kill.swept or ''}",
                flush=True,
            )
    finally:
        going.close()
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
