"""The injector: listens at the seam, and does what the plan says at the points the plan says.

    python -m injection.injector SPEC.json

SPEC: `run_id`, `faults` (of the plan), `socket` (path of the seam), `registry_dir`, `addresses` (path of the name table),
`stats_dir` (the job's figures, read where a trigger waits for one), `journal_dir`, `history` (path), `place` (virtual-cluster |
plain-host | agent-host), `proxy_api` (host:port, "" without proxies), `barrier_hold_s`, `lease_s`, `arm_timeout_s`,
`protected_pids`, `renews_lease` (false: whoever started it does, and so decides how long its faults stay), `job_dir` (where
targets' files lie; default: where the name table does). Prints `ready` when the seam listens. SIGTERM ends the run: everything
is undone and proved gone; SIGINT does so without waiting for measurements that are under way. Exit code 0; 2 when something is
stuck; 1 for a bad SPEC.
"""

from __future__ import annotations

import gc
import json
import signal
import sys
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from injection import journal
from injection.figures import Figures
from injection.hand import Hand, Workshop
from injection.listener import Listener
from injection.receipts import History
from injection.target import POLL_S, Site
from injection.trigger import Heard, Reading, waits_for_figures
from storage.records import StageEvent


@dataclass(frozen=True)
class Spec:
    """What the lab asks of one injector; see the module's text."""

    run_id: str
    faults: list[dict[str, Any]]
    socket: str
    registry_dir: str
    addresses: str
    journal_dir: str
    history: str
    place: str
    barrier_hold_s: float
    lease_s: float
    stats_dir: str = ""
    proxy_api: str = ""
    arm_timeout_s: float = 180.0
    protected_pids: tuple[int, ...] = ()
    renews_lease: bool = True
    job_dir: str = ""


def read_spec(path: Path) -> Spec:
    """Read a SPEC. Raises ValueError naming strange or missing keys."""
    data = json.loads(path.read_text())
    known = {field.name for field in fields(Spec)}
    if set(data) - known:
        raise ValueError(f"{path}: unknown key(s) {', '.join(sorted(set(data) - known))}; known: {', '.join(sorted(known))}")
    try:
        return Spec(**data)
    except TypeError as error:
        raise ValueError(f"{path}: {error}") from error


class Injector:
    """All hands of a run, one listener, one lease."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._history = History(Path(spec.history))
        folder = Path(spec.job_dir) if spec.job_dir else None
        site = Site(Path(spec.registry_dir), Path(spec.addresses), frozenset(spec.protected_pids), folder)
        shop = Workshop(
            run_id=spec.run_id,
            place_kind=spec.place,
            site=site,
            journal_dir=Path(spec.journal_dir),
            history=self._history,
            lease_s=spec.lease_s,
            arm_timeout_s=spec.arm_timeout_s,
            proxy_api=spec.proxy_api,
        )
        self._hands = [Hand(entry, shop) for entry in spec.faults]
        self._over = threading.Event()
        self._listener = Listener(Path(spec.socket), self.hear)
        wanted = any(waits_for_figures(entry["trigger"]) or waits_for_figures(entry["until"]) for entry in spec.faults)
        self._figures = Figures(Path(spec.stats_dir), self.read) if wanted else None

    def start(self) -> None:
        """Renew the lease, arm in the background, listen."""
        if self._spec.renews_lease:
            journal.renew_lease(Path(self._spec.journal_dir), self._spec.run_id, self._spec.lease_s)
            threading.Thread(target=self._renew, name="lease", daemon=True).start()
        for hand in self._hands:
            hand.arm()
        threading.Thread(target=self._look, name="look", daemon=True).start()
        if self._figures:
            threading.Thread(target=self._figures.follow, args=(self._over,), name="figures", daemon=True).start()
        self._listener.start()

    def hear(self, event: StageEvent, arrived: float) -> float:
        """An announcement: every hand acts on it, and it is answered as late as any other.

        Were only the points of faults held, the longest pause at a stage's edge would tell where they are.
        """
        for hand, doing in self._tell(event, arrived):
            hand.wait(doing)
        self._history.event(event)
        return arrived + self._spec.barrier_hold_s

    def read(self, reading: Reading) -> None:
        """A figure that the job told: what it sets off is done beside the job, which is not held for it."""
        self._tell(reading, time.monotonic())

    def _tell(self, heard: Heard, arrived: float) -> list[tuple[Hand, Future[None]]]:
        """All hands at once, before any is waited for."""
        return [(hand, doing) for hand in self._hands if (doing := hand.hear(heard, arrived)) is not None]

    def stop(self, *, patient: bool = True) -> int:
        """Undo everything and prove it gone; see `Hand.finish`. Returns the exit code."""
        self._listener.close()
        for hand in sorted(self._hands, key=lambda hand: hand.turn_to_end):
            hand.finish(patient=patient)
        self._over.set()
        self._history.close()
        if any(hand.stuck for hand in self._hands):
            return 2
        journal.lease_file(Path(self._spec.journal_dir), self._spec.run_id).unlink(missing_ok=True)
        return 0

    def _look(self) -> None:
        """Targets may be started anew, or moved, until they are hit."""
        while not self._over.wait(POLL_S):
            for hand in self._hands:
                hand.look()

    def _renew(self) -> None:
        while not self._over.wait(self._spec.lease_s / 4):
            with suppress(OSError):  # a full disk: until there is room again the watchdog takes this process for silent
                journal.renew_lease(Path(self._spec.journal_dir), self._spec.run_id, self._spec.lease_s)


def main(argv: list[str]) -> int:
    """Run until SIGTERM."""
    # Blocked and waited for, not handled: a handler runs in the main thread only, and the kernel may wake another one.
    ends = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    try:
        injector = Injector(read_spec(Path(argv[0])))
    except (OSError, ValueError, IndexError) as error:
        sys.stderr.write(f"injector: {error}\n")
        return 1
    injector.start()
    # What is there stays; what comes is little. A collection would stand between an announcement and its effect.
    gc.freeze()
    gc.disable()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    return injector.stop(patient=signal.sigwait(ends) == signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
