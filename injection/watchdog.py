"""The process that outlives the injector: when that dies or falls silent, every fault of its run is undone from the journal.

    python -m injection.watchdog --journal DIR --run RUN --watch PID[:START_TICKS] [--watch ...] --lease S

Beside a virtual cluster there is a second one, which watches the lab alone: what outlives the cluster is undone by it.
It ends when told (SIGTERM), or by itself when a watched process is gone and nothing is left to undo; then it also ends
what is left of places whose lab and keeper were both killed.
Exit code 2: something is stuck.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from injection import journal, procfs
from injection.journal import State
from injection.procfs import Identity
from injection.recover import in_order, undo

#: A fault that does not go at once is tried again so often, so much later each time.
TRIES = 3
BACKOFF_S = 0.5


class Watch:
    """The processes that must live and the lease that must be renewed."""

    def __init__(self, folder: Path, run_id: str, watched: Sequence[Identity], lease_s: float) -> None:
        self._folder = folder
        self._run_id = run_id
        self._lease_s = lease_s
        self._began = journal.boottime_s()
        self._all_there = True
        self._pidfds = []
        for who in watched:
            try:
                self._pidfds.append(procfs.open_pidfd(who))
            except ProcessLookupError:
                self._all_there = False

    def died(self, wait_s: float) -> bool:
        """Whether a watched process has ended; waits up to `wait_s` for that."""
        if self._all_there:
            self._all_there = not select.select(self._pidfds, [], [], wait_s)[0]
        return not self._all_there

    def silent(self) -> bool:
        """Whether the lease has lapsed. Before its first renewal it counts from this watchdog's start."""
        left = journal.lease_left_s(self._folder, self._run_id)
        if left is None:
            left = self._began + self._lease_s - journal.boottime_s()
        return left < 0


def undo_run(folder: Path, run_id: str) -> bool:
    """Undo every fault of a run that is not undone yet; true when none is left."""
    for attempt in range(TRIES):
        left = in_order(folder, (one for one in journal.records(folder, run_id) if one.state != State.REVERTED))
        after = [undo(folder, record)[0] for record in left]
        if "stuck" not in after:
            return True
        time.sleep(BACKOFF_S * 2**attempt)
    return False


def guard(folder: Path, run_id: str, watch: Watch, told: list[int]) -> int:
    """Wait for death, silence or the word to stop, and undo. Returns the exit code."""
    while not watch.died(wait_s=0.1):
        if told:
            return 0
        if watch.silent():
            undo_run(folder, run_id)
    undone = undo_run(folder, run_id)
    from injection.strays import end_abandoned  # its library is loaded only when it must be

    end_abandoned()
    return 0 if undone else 2


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, leave the caller's session, guard."""
    parser = argparse.ArgumentParser(prog="python -m injection.watchdog", description=__doc__)
    parser.add_argument("--journal", type=Path, required=True)
    parser.add_argument("--run", required=True)
    parser.add_argument("--watch", type=_identity, action="append", required=True)
    parser.add_argument("--lease", type=float, required=True)
    options = parser.parse_args(argv)
    if os.getsid(0) != os.getpid():
        os.setsid()
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    watch = Watch(options.journal, options.run, options.watch, options.lease)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    return guard(options.journal, options.run, watch, told)


def _identity(text: str) -> Identity:
    pid, _, ticks = text.partition(":")
    try:
        return Identity(int(pid), int(ticks)) if ticks else procfs.identity(int(pid))
    except ProcessLookupError:
        return Identity(int(pid), -1)  # gone already: the first look says so


if __name__ == "__main__":
    sys.exit(main())
