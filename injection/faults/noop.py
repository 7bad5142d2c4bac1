"""Nothing: fault number one, the control arm. It takes the same path as every other fault and changes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from injection.fault import Ask, Context, Measurement, Undo


@dataclass(frozen=True)
class Params:
    """None."""


class Noop:
    """Resolves its target like any other fault, then leaves it alone."""

    parameters = Params

    def __init__(self, ctx: Context, params: Params) -> None:
        self._ctx = ctx
        self._params = params

    def arm(self) -> None:
        """Nothing to prepare."""

    def undo(self) -> Undo:
        """Nothing to restore."""
        return {}

    def apply(self) -> dict[str, Any]:
        """Nothing to do."""
        return {}

    def verify(self) -> Measurement:
        """Nothing to find: the claim is that nothing was done."""
        return Measurement(ok=True, probe="none", measured={})

    @staticmethod
    def revert(undo: Undo) -> None:
        """Nothing to undo."""

    @staticmethod
    def gone(undo: Undo, ask: Ask) -> Measurement:  # noqa: ARG004 - the shape of every fault
        """Nothing is left of nothing."""
        return Measurement(ok=True, probe="none", measured={})
