"""One fault's life in the injector: arm, fire, apply, verify, revert; each step in the journal and the history.

A fault that goes wrong makes the run invalid, with the reason; it never harms the job beyond what it was asked to do.

Nothing slow stands between an announcement and the effect: the journal's record is on disk since the fault was armed, in the
state `applying` (it may be in force from here on, and undoing copes with one that is not), and the history is told afterwards.
"""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotInTime
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from injection import child, journal, procfs, trigger
from injection.capability import OWN_THREAD, PLAIN_HOST, capability
from injection.company import Company
from injection.fault import Ask, Context, Fault, Measurement, NotYetError, OnLink
from injection.journal import Record, State
from injection.lost import Watched, await_loss
from injection.measure import ask_here
from injection.preflight import absent_backends
from injection.probe import Probe
from injection.procfs import Identity
from injection.receipts import History
from injection.recover import revert_record
from injection.registry import UNDONE_FIRST, make_fault
from injection.target import POLL_S, Live, LiveLink, LiveProcess, NoSuchTargetError, Site, Whereabouts, await_target
from injection.trigger import Condition, Expired, Fire, Heard

#: How long an announcement may be kept waiting for a fault to be applied or reverted; the job itself gives up after 10 s.
PATIENCE_S = 5.0
#: How long a target that is gone at the trigger may take to be there again: a restart takes less, and the job is waiting.
BACK_S = 3.0
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
    company: Company = field(default_factory=Company)


@dataclass(frozen=True)
class Done:
    """An apply: its begin and end (monotonic), and the state read back."""

    began: float
    applied: float
    readback: dict[str, Any]


class Hand:
    """The fault of one entry of the plan. Public methods are safe to call from any thread."""

    def __init__(self, entry: dict[str, Any], shop: Workshop) -> None:
        self.id: str = entry["id"]
        self._entry = entry
        self._shop = shop
        self._trigger = trigger.from_plan(entry["trigger"])
        self._ending: Condition | None = None
        # One thread for arm and revert, and for apply where the backend wants it: parent-death signals belong to the thread
        # that started a process, netlink sockets to the one that made them.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=self.id)
        self._turn = threading.Lock()
        self._acting = threading.Lock()
        self._stopped = threading.Event()
        self._state = "waiting"
        self._probe: Probe | None = None
        self._fault: Fault | None = None
        self._target: Live | None = None
        self._where: Whereabouts | None = None
        self._gone = False
        self._record: Record | None = None
        self._stamp: tuple[int, int] = (0, 0)
        self._applied = False
        self._undoing = False
        self._began = 0.0
        self._done: Done | None = None
        self._verifying: threading.Thread | None = None
        self._timers: list[threading.Timer] = []
        self.stuck = False

    @property
    def turn_to_end(self) -> tuple[bool, float]:
        """Sorts hands as their faults are to be undone, as `recover.in_order` does."""
        return self._entry["kind"] not in UNDONE_FIRST, -self._began

    def arm(self) -> None:
        """Prepare in the background, as soon as the target has registered."""
        self._thread.submit(self._guarded, self._arm)

    def hear(self, heard: Heard, arrived: float) -> Future[None] | None:
        """Act on what was heard at `arrived` (monotonic). What `wait` waits for when it is a point of this fault, else None."""
        with self._turn:
            self._trigger, decision = self._trigger.hear(heard)
            if isinstance(decision, Fire):
                return self._fire(decision.after_s, heard, arrived)
            if isinstance(decision, Expired):
                self._state = "expired"
                self._shop.history.state("expired", self.id, reason=decision.reason)
            if self._state == "fired" and self._ending is not None:
                self._ending, ends = self._ending.hear(heard)
                if ends:
                    self._state = "ending"
                    return self._thread.submit(self._guarded, self._revert)
        return None

    def look(self) -> None:
        """Arm anew, in the background, where the target is another process by now or has other addresses."""
        if self._state == "waiting" and not self._acting.locked() and self._where is not None and self._where.moved():
            with suppress(RuntimeError):  # the run has ended meanwhile
                self._thread.submit(self._guarded, self._follow)

    def wait(self, doing: Future[None]) -> None:
        """Until a fault is applied or reverted; not for ever."""
        try:
            doing.result(PATIENCE_S)
        except NotInTime:
            self._shop.history.state("invalid", self.id, reason=f"not done {PATIENCE_S} s after the announcement")

    def finish(self, *, patient: bool = True) -> None:
        """The run is over: undo what is in force, close what was prepared, say what never fired.

        A patient end lets a proof that is still being measured come to its end; the other is for a run that no longer counts.
        """
        self._stopped.set()
        with self._turn:
            left = self._trigger.end()
            if isinstance(left, Expired):
                self._shop.history.state("expired", self.id, reason=left.reason)
        for timer in self._timers:
            timer.cancel()
        if self._verifying and patient:
            self._verifying.join(VERIFY_LIMIT_S)
        # A measurement that is not waited for may have the probe for long: what is left is then measured here.
        self._thread.submit(self._guarded, self._revert, None if patient else ask_here)
        self._thread.shutdown(wait=True)
        if self._probe:
            self._probe.close()

    def _fire(self, after_s: float, heard: Heard, arrived: float) -> Future[None]:
        """Have it applied, now or later. One that is still in force from the time before is left alone."""
        if self._state != "waiting":
            self._shop.history.state("skipped", self.id, reason=f"it was {self._state} when it was to come again")
            return _nothing()
        self._state = "fired"
        self._ending = trigger.ending(self._entry["until"], heard.step)
        here = self._record is not None and self._record.backend not in OWN_THREAD
        # One that is being armed anew is applied after that, in its own thread: whoever announces never waits without a bound.
        if after_s <= 0 and self._fault is not None and here and not self._acting.locked():
            self._guarded(self._strike)
            if self._gone:
                self._thread.submit(self._guarded, self._strike_again)
            return self._thread.submit(self._guarded, self._note, heard, arrived)
        if after_s <= 0:
            return self._thread.submit(self._guarded, self._apply, heard, arrived)
        self._later(arrived + after_s - time.monotonic(), self._apply, heard, arrived)
        return _nothing()

    def _later(self, delay_s: float, action: Any, *arguments: Any) -> None:
        timer = threading.Timer(max(0.0, delay_s), lambda: self._thread.submit(self._guarded, action, *arguments))
        timer.daemon = True
        self._timers.append(timer)
        timer.start()

    def _guarded(self, action: Any, *arguments: Any) -> None:
        """Whatever goes wrong in a fault becomes a line of the history. One action at a time, but for the measuring."""
        try:
            with nullcontext() if action == self._verify else self._acting:
                action(*arguments)
        except Exception as error:  # the job must not suffer for our mistake
            self._shop.history.state(
                "invalid", self.id, reason=f"{action.__name__.strip('_')}: {type(error).__name__}: {error}"
            )

    def _arm(self, patience_s: float | None = None) -> None:
        kind, shop = self._entry["kind"], self._shop
        absent = absent_backends() if shop.place_kind != PLAIN_HOST else ()
        backend = capability(kind, shop.place_kind, self._entry["params"], absent)
        self._probe = self._probe or Probe()
        patience_s = shop.arm_timeout_s if patience_s is None else patience_s
        stamp = shop.site.stamp()
        target = await_target(self._entry["target"], shop.site, patience_s, self._stopped.is_set)
        # In every arm, the control included: so contention for the core is all that differs.
        if self._entry["target"].get("pin") and isinstance(target, LiveProcess):
            procfs.pin(target.who, max(os.sched_getaffinity(target.who.pid)))
        ctx = Context(target, backend, self._probe.ask, shop.proxy_api, shop.site.job, self.id, shop.company)
        fault = make_fault(kind, self._entry["params"], ctx)
        record = journal.new_record(shop.run_id, self.id, kind, backend, shop.lease_s)
        self._await_armed(fault, patience_s)
        self._journal(replace(record, undo=fault.undo()))
        self._where = Whereabouts(self._entry["target"], shop.site, target, stamp)
        self._fault, self._target, self._applied, self._undoing = fault, target, False, False
        shop.history.state("armed", self.id, kind=kind, backend=backend, target=target.name)

    def _follow(self) -> None:
        """Arm for where the target is now; where it has gone again meanwhile, when it is back."""
        where = self._where
        if self._stopped.is_set() or self._state != "waiting" or where is None or not where.moved():
            return
        self._let_go()
        if self.stuck:
            return
        try:
            self._arm(0.0)
        except (NoSuchTargetError, FileNotFoundError, ProcessLookupError, NotYetError):
            self._where = where

    def _let_go(self) -> None:
        """What was prepared for a target that is no more is ended; nothing of it was in force."""
        self._fault = self._where = None
        self._undo()

    def _await_armed(self, fault: Fault, patience_s: float) -> None:
        deadline = time.monotonic() + patience_s
        while True:
            try:
                return fault.arm()
            except NotYetError:
                if time.monotonic() > deadline or self._stopped.is_set():
                    raise
            time.sleep(POLL_S)

    def _journal(self, record: Record) -> None:
        """Put on disk what undoing needs, durably, as of a fault that may be in force from now on."""
        self._record = journal.advance(self._shop.journal_dir, record, State.APPLYING)
        self._stamp = journal.stamp(self._shop.journal_dir, self._record)

    def _apply(self, heard: Heard, arrived: float) -> None:
        self._strike()
        if self._gone:
            self._strike_again()
        self._note(heard, arrived)

    def _strike(self) -> None:
        """Act, unless the target is not any more where the fault was armed for it; that is no mistake yet."""
        self._gone = self._where is not None and (self._fault is None or self._where.moved())
        if self._gone:
            return
        try:
            self._act()
        except NoSuchTargetError:  # refused before anything was touched: see each kind's `apply`
            self._gone, self._applied = True, False

    def _strike_again(self) -> None:
        """Arm for where the target is now, wait for it where it is being started anew, and act. Raises where that fails."""
        self._gone = False
        await_target(self._entry["target"], self._shop.site, BACK_S, self._stopped.is_set)
        self._let_go()
        if not self.stuck:
            self._arm(BACK_S)
            self._act()

    def _act(self) -> None:
        """All that stands between the announcement and the effect."""
        if self._fault is None or self._record is None:
            raise RuntimeError("the trigger fired before the fault was armed")
        undo = self._fault.undo()
        # Written anew only where undoing needs what could not be known before, or a watchdog has closed the record meanwhile.
        if undo != self._record.undo or journal.stamp(self._shop.journal_dir, self._record) != self._stamp:
            lease = journal.boottime_s() + self._shop.lease_s
            self._journal(replace(self._record, undo=undo, lease_until_s=lease))
        began = time.monotonic()
        self._applied, self._began = True, began
        with self._joining(self._fault):
            readback = self._fault.apply()
        self._done = Done(began, time.monotonic(), readback)

    def _joining(self, fault: Fault) -> AbstractContextManager[None]:
        """While a fault on a link is put in force."""
        if isinstance(fault, OnLink) and isinstance(self._target, LiveLink):
            return self._shop.company.joining(self.id, self._target, fault.does())
        return nullcontext()

    def _note(self, heard: Heard, arrived: float) -> None:
        """What was done goes on disk, and its proof begins. Nothing to note where it went wrong."""
        done, self._done = self._done, None
        if done is None or self._record is None or self._fault is None:
            return
        self._record = journal.advance(self._shop.journal_dir, self._record, State.APPLIED)
        where = {"step": heard.step, "stage": heard.stage}
        self._shop.history.state("fired", self.id, event_mono_s=arrived, mono_s=done.began, **where)
        self._shop.history.state("applied", self.id, mono_s=done.applied, readback=done.readback, **where)
        arguments = (self._verify, self._fault)
        self._verifying = threading.Thread(target=self._guarded, args=arguments, name="verify", daemon=True)
        self._verifying.start()
        if helpers := child.holding(self._record.undo):
            threading.Thread(target=self._watch, args=(self._record, self._fault, helpers), name="watch", daemon=True).start()
        if isinstance(self._fault, Watched):
            threading.Thread(target=self._look_after, args=(self._record, self._fault), name="look-after", daemon=True).start()
        if "after_s" in self._entry["until"]:
            self._later(done.applied + self._entry["until"]["after_s"] - time.monotonic(), self._revert)

    def _verify(self, fault: Fault) -> None:
        found = fault.verify()
        self._shop.history.proof("verified", self.id, found)
        if not found.ok:
            self._shop.history.state("invalid", self.id, reason=f"no effect seen by {found.probe}: {found.measured}")

    def _watch(self, record: Record, fault: Fault, helpers: list[Identity]) -> None:
        """What a helper does is over with it: one that ends before its fault is undone has taken the effect along."""
        pid = procfs.await_end(helpers)
        self._tell_lost(record, fault, f"its helper (process {pid}) ended")

    def _look_after(self, record: Record, fault: Fault) -> None:
        """So is what it does when somebody else ends that."""
        assert isinstance(fault, Watched)
        if why := await_loss(fault, lambda: self._undoing or self._fault is not fault):
            self._tell_lost(record, fault, why)

    def _tell_lost(self, record: Record, fault: Fault, why: str) -> None:
        """Unless it is being undone, by whomever, or has been, and is armed anew by now."""
        if self._fault is fault and not self._undoing and journal.state_of(self._shop.journal_dir, record) == State.APPLIED:
            reason = f"{why} before it was undone, so it was in force for a shorter time"
            self._shop.history.state("invalid", self.id, reason=reason)

    def _revert(self, ask: Ask | None = None) -> None:
        """In the fault's own thread; once is enough, twice is harmless."""
        found = self._undo(ask)
        if found is None:
            return
        if self._applied:
            self._shop.history.state("reverted", self.id)
            self._shop.history.proof("gone", self.id, found)
        if self._trigger.repeats and not self._stopped.is_set():
            self._arm_again()

    def _undo(self, ask: Ask | None = None) -> Measurement | None:
        """Undo what the journal says, and forget it. None where it is undone already, or stuck."""
        if self._record is None or self._record.state == State.REVERTED:
            return None
        self._undoing = True
        on_disk = journal.read(self._shop.journal_dir / self._record.name)
        closed = on_disk.state in (State.REVERTING, State.REVERTED)
        if closed and self._applied and self._record.state not in (State.REVERTING, State.STUCK):
            reason = "the watchdog undid it, for this process had fallen silent"
            self._shop.history.state("invalid", self.id, reason=reason)
        if on_disk.state == State.REVERTED:
            self._record = on_disk
            return None
        assert self._probe is not None
        with self._shop.company.leaving(self.id):
            self._record, found = revert_record(self._shop.journal_dir, self._record, ask or self._probe.ask)
        self.stuck = self._record.state == State.STUCK
        if self.stuck:
            self._shop.history.state("stuck", self.id, reason=self._record.reason)
            return None
        journal.forget(self._shop.journal_dir, self._record)
        return found

    def _arm_again(self) -> None:
        """For the next time. That the job has ended meanwhile is no mistake: nothing more was to come."""
        try:
            self._arm()
        except (NoSuchTargetError, FileNotFoundError):
            if not self._stopped.is_set():
                raise
        else:
            self._state = "waiting"  # without `_turn`: who holds that may be waiting for what is being done here


def _nothing() -> Future[None]:
    """What is done already."""
    done: Future[None] = Future()
    done.set_result(None)
    return done
