"""Have a child do what may hang for ever, as disks do: who waits for one cannot be killed, so we look, and never wait long."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable
from contextlib import suppress

#: The longest that its end is waited for.
END_S = 1.0
_LONGEST_ANSWER = 4096


class Errand:
    """A child of ours, without a program of its own: it has our name, and nothing of ours but two pipes. Raises OSError.

    ``act`` is called in the child each time it is asked, and returns a line of text (no line end); ``at_end`` once, when nobody
    can ask it any more.
    """

    def __init__(self, act: Callable[[], str], at_end: Callable[[], object] = lambda: None) -> None:
        asks, self._ask = os.pipe()
        self._answer, answers = os.pipe()
        self.gone = False
        try:
            self.pid = os.fork()
        except OSError:
            for pipe in (asks, self._ask, self._answer, answers):
                os.close(pipe)
            raise
        if self.pid == 0:
            try:
                os.dup2(asks, 0)
                os.dup2(answers, 1)
                os.closerange(3, os.sysconf("SC_OPEN_MAX"))
                _serve(act, at_end)
            finally:
                os._exit(0)
        os.close(asks)
        os.close(answers)

    def ask(self) -> None:
        """Have it done once."""
        with suppress(BrokenPipeError):
            os.write(self._ask, b"\n")

    def answer(self, within_s: float = 0.0) -> str | None:
        """What it said; None = nothing yet. One that has ended says nothing, and is `gone`."""
        if not select.select([self._answer], [], [], within_s)[0]:
            return None
        line = os.read(self._answer, _LONGEST_ANSWER)
        self.gone = not line
        return line.decode().strip()

    def close(self) -> None:
        """It ends when nobody can ask it any more. One that hangs in its disk is left to whoever is everybody's parent."""
        os.close(self._ask)
        os.close(self._answer)
        deadline = time.monotonic() + END_S
        while os.waitpid(self.pid, os.WNOHANG)[0] == 0 and time.monotonic() < deadline:
            time.sleep(0.005)


def _serve(act: Callable[[], str], at_end: Callable[[], object]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    with suppress(BrokenPipeError):
        while os.read(0, 1):
            os.write(1, act().encode() + b"\n")
    at_end()
