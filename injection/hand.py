"""One fault's life in the injector: arm, fire, apply, verify, revert; each step in the journal and the history.

A fault that goes wrong makes the run invalid, with the reason; it never harms the job beyond what it was asked to do.
"""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotInTime
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from injection import journal, procfs, trigger
from injection.capability import capability
from injection.fault import Ask, Context, Fault
from injection.journal import Record, State
from injection.measure import ask_here
from injection.probe import Probe
from injection.receipts import History
from injection.recover import revert_record
from injection.registry import make_fault
from injection.target import LiveProcess, Site, await_target
from injection.trigger import Expired, Fire
from storage.records import StageEvent

#: How long an announcement may be kept waiting for a fault to be applied or reverted; the job itself gives up after 10 s.
PATIENCE_S = 5.0
#: How long the end of a run waits for a probe that is still measuring.
VERIFY_LIMIT_S = 15.0


@dataclass(frozen=True)
class Workshop:
    """What all hands of a run share."""

    run_id: str
    place_kind: str
    site: Site
    journal_dir: Path
    history: History
    lease_s: float
    arm_timeout_s: float
    proxy_api: str


class Hand:
    """The fault of one entry of the plan. Public methods are safe to call from any thread."""

    def __init__(self, entry: dict[str, Any], shop: Workshop) -> None:
        self.id: str = entry["id"]
        self._entry = entry
        self._shop = shop
        self._trigger = trigger.from_plan(entry["trigger"])
        self._ending = trigger.ending(entry["until"])
        # One thread for arm, apply and revert: netlink sockets and parent-death signals belong to the thread that made them.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=self.id)
        self._turn = threading.Lock()
        self._stopped = threading.Event()
        self._state = "waiting"
        self._probe: Probe | None = None
        self._fault: Fault | None = None
        self._record: Record | None = None
        self._verifying: threading.Thread | None = None
        self._timers: list[threading.Timer] = []
        self.stuck = False

    def arm(self) -> None:
        """Prepare in the background, as soon as the target has registered."""
        self._thread.submit(self._guarded, self._arm)

    def hear(self, event: StageEvent, arrived: float) -> bool:
        """Act on an announcement that arrived at `arrived` (monotonic). True when it is a point of this fault: a barrier."""
        with self._turn:
            decision = self._trigger.step_on(event) if self._state == "waiting" else None
            if isinstance(decision, Fire):
                self._state = "fired"
            elif isinstance(decision, Expired):
                self._state = "expired"
            ended = self._state == "fired" and decision is None and self._ending is not None and self._ending.reached_by(event)
            if ended:
                self._state = "ending"
        if isinstance(decision, Fire):
            self._fire(decision.after_s, arrived)
        elif isinstance(decision, Expired):
            self._shop.history.state("expired", self.id, reason=decision.reason)
        elif ended:
            self._wait(self._thread.submit(self._guarded, self._revert))
        return isinstance(decision, Fire) or ended

    def finish(self, *, patient: bool = True) -> None:
        """The run is over: undo what is in force, close what was prepared, say what never fired.

        A patient end lets a proof that is still being measured come to its end; the other is for a run that no longer counts.
        """
        self._stopped.set()
        with self._turn:
            if self._state == "waiting":
                self._state = "expired"
                self._shop.history.state("expired", self.id, reason=self._trigger.end().reason)
        for timer in self._timers:
            timer.cancel()
        if self._verifying and patient:
            self._verifying.join(VERIFY_LIMIT_S)
        # A measurement that is not waited for may have the probe for long: what is left is then measured here.
        self._thread.submit(self._guarded, self._revert, None if patient else ask_here)
        self._thread.shutdown(wait=True)
        if self._probe:
            self._probe.close()

    def _fire(self, after_s: float, arrived: float) -> None:
        if after_s <= 0:
            self._wait(self._thread.submit(self._guarded, self._apply, arrived))
            return
        self._later(arrived + after_s - time.monotonic(), self._apply, arrived)

    def _later(self, delay_s: float, action: Any, *arguments: Any) -> None:
        timer = threading.Timer(max(0.0, delay_s), lambda: self._thread.submit(self._guarded, action, *arguments))
        timer.daemon = True
        self._timers.append(timer)
        timer.start()

    def _wait(self, doing: Future[None]) -> None:
        try:
            doing.result(PATIENCE_S)
        except NotInTime:
            self._shop.history.state("invalid", self.id, reason=f"not done {PATIENCE_S} s after the announcement")

    def _guarded(self, action: Any, *arguments: Any) -> None:
        """Whatever goes wrong in a fault becomes a line of the history."""
        try:
            action(*arguments)
        except Exception as error:  # the job must not suffer for our mistake
            self._shop.history.state(
                "invalid", self.id, reason=f"{action.__name__.strip('_')}: {type(error).__name__}: {error}"
            )

    def _arm(self) -> None:
        kind, shop = self._entry["kind"], self._shop
        backend = capability(kind, shop.place_kind)
        self._probe = Probe()
        target = await_target(self._entry["target"], shop.site, shop.arm_timeout_s, self._stopped.is_set)
        # In every arm, the control included: so contention for the core is all that differs.
        if self._entry["target"].get("pin") and isinstance(target, LiveProcess):
            procfs.pin(target.who, max(os.sched_getaffinity(target.who.pid)))
        fault = make_fault(kind, self._entry["params"], Context(target, backend, self._probe.ask, shop.proxy_api, shop.site.job))
        self._record = journal.new_record(shop.run_id, self.id, kind, backend, shop.lease_s)
        fault.arm()
        self._record = replace(self._record, undo=fault.undo())
        journal.write(shop.journal_dir, self._record)
        self._fault = fault
        shop.history.state("armed", self.id, kind=kind, backend=backend, target=target.name)

    def _apply(self, arrived: float) -> None:
        if self._fault is None or self._record is None:
            raise RuntimeError("the trigger fired before the fault was armed")
        lease = journal.boottime_s() + self._shop.lease_s
        self._record = replace(self._record, undo=self._fault.undo(), lease_until_s=lease)
        self._record = journal.advance(self._shop.journal_dir, self._record, State.APPLYING)
        began = time.monotonic()
        readback = self._fault.apply()
        applied = time.monotonic()
        self._record = journal.advance(self._shop.journal_dir, self._record, State.APPLIED)
        # Told only now: the history's own fsync must not stand between the announcement and the effect.
        self._shop.history.state("fired", self.id, event_mono_s=arrived, mono_s=began)
        self._shop.history.state("applied", self.id, mono_s=applied, readback=readback)
        self._verifying = threading.Thread(target=self._guarded, args=(self._verify,), name="verify", daemon=True)
        self._verifying.start()
        if "after_s" in self._entry["until"]:
            self._later(applied + self._entry["until"]["after_s"] - time.monotonic(), self._revert)

    def _verify(self) -> None:
        assert self._fault is not None
        found = self._fault.verify()
        self._shop.history.proof("verified", self.id, found)
        if not found.ok:
            self._shop.history.state("invalid", self.id, reason=f"no effect seen by {found.probe}: {found.measured}")

    def _revert(self, ask: Ask | None = None) -> None:
        """In the fault's own thread; once is enough, twice is harmless."""
        if self._record is None or self._record.state == State.REVERTED:
            return
        on_disk = journal.read(self._shop.journal_dir / self._record.name)
        if on_disk.state in (State.REVERTING, State.REVERTED) and self._record.state not in (State.REVERTING, State.STUCK):
            reason = "the watchdog undid it, for this process had fallen silent"
            self._shop.history.state("invalid", self.id, reason=reason)
        if on_disk.state == State.REVERTED:
            self._record = on_disk
            return
        was_applied = self._record.state not in (State.PLANNED,)
        assert self._probe is not None
        self._record, found = revert_record(self._shop.journal_dir, self._record, ask or self._probe.ask)
        self.stuck = self._record.state == State.STUCK
        if self.stuck:
            self._shop.history.state("stuck", self.id, reason=self._record.reason)
            return
        journal.forget(self._shop.journal_dir, self._record)
        if was_applied:
            self._shop.history.state("reverted", self.id)
            self._shop.history.proof("gone", self.id, found)
