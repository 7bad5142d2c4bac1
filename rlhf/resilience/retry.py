"""When to try again: a policy is a value, handed to whoever sends; clock, sleep and dice come from outside."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import tenacity

T = TypeVar("T")
#: Told before each wait: number of failures so far, the error, and the seconds that will be waited.
BeforeWait = Callable[[int, BaseException, float], None]


@dataclass(frozen=True)
class RetryPolicy:
    """``attempts`` tries in all; after the i-th failure (from 0) wait ``min(base_s * factor**i, cap_s)`` plus a uniform jitter.

    No wait is begun that would end later than ``deadline_s`` after the first try.
    """

    attempts: int
    base_s: float
    cap_s: float = math.inf
    factor: float = 2.0
    jitter_s: float = 0.0
    deadline_s: float = math.inf

    def __post_init__(self) -> None:
        if self.attempts < 1 or min(self.base_s, self.cap_s, self.jitter_s, self.deadline_s) < 0 or self.factor < 1:
            raise ValueError(f"not a retry policy: {self}")

    def wait_s(self, failures: int) -> float:
        """Seconds after the ``failures``-th failure (from 0), without jitter."""
        try:
            return min(self.base_s * self.factor**failures, self.cap_s)
        except OverflowError:
            return self.cap_s

    def waits_s(self) -> list[float]:
        """Every wait between the tries, without jitter: one less than there are tries."""
        return [self.wait_s(failures) for failures in range(self.attempts - 1)]

    def scaled(self, time_scale: float) -> RetryPolicy:
        """The same policy with every duration divided by ``time_scale``."""
        names = ("base_s", "cap_s", "jitter_s", "deadline_s")
        return replace(self, **{name: getattr(self, name) / time_scale for name in names})

    def call(
        self,
        function: Callable[[], T],
        on: tuple[type[BaseException], ...],
        *,
        before_wait: BeforeWait | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        dice: random.Random | None = None,
    ) -> T:
        """Call until it succeeds, fails with another error, or has been tried enough; raises the last error as it was."""
        roll, end = dice or random.Random(), clock() + self.deadline_s  # noqa: S311 - jitter is no secret

        def wait(state: tenacity.RetryCallState) -> float:
            return self.wait_s(state.attempt_number - 1) + roll.uniform(0.0, self.jitter_s)

        def stop(state: tenacity.RetryCallState) -> bool:
            return state.attempt_number >= self.attempts or clock() + state.upcoming_sleep > end

        def tell(state: tenacity.RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome else None
            if before_wait is not None and error is not None:
                before_wait(state.attempt_number, error, state.upcoming_sleep)

        again = tenacity.retry_if_exception_type(on)
        return tenacity.Retrying(retry=again, wait=wait, stop=stop, sleep=sleep, before_sleep=tell, reraise=True)(function)


#: The trainer's own calls: one try and three more, a second apart.
TRAINER = RetryPolicy(attempts=4, base_s=1.0, cap_s=1.0)
#: The HTTP client before it learned to wait: three *re*tries after 2, 4 and 8 s, 14 s in all; its servers took minutes.
HASTY = RetryPolicy(attempts=4, base_s=2.0)
#: The same client afterwards: ten tries, min(5 * 2**i, 60) s between them, 375 s in all. (The table that came with that
#: change waits 5, 5, 10, 20, 40 and then 60 s, and ends at 320 s; the formula is what the code does.)
PATIENT = RetryPolicy(attempts=10, base_s=5.0, cap_s=60.0)
#: A message between peers over gRPC: three tries, up to a second of jitter against a herd.
GRPC_SEND = RetryPolicy(attempts=3, base_s=1.0, cap_s=30.0, jitter_s=1.0)
#: Patient, with jitter, and never longer than ten minutes.
BACKOFF = replace(PATIENT, jitter_s=5.0, deadline_s=600.0)

PRESETS = {"trainer": TRAINER, "hasty": HASTY, "patient": PATIENT, "grpc_send": GRPC_SEND, "backoff": BACKOFF}
