"""What every further source of the sampler is: it follows the job, is read once a beat, and is closed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from telemetry.registry import Registered

MACHINE = "machine"
"""Host and component name of what is told of the machine as a whole."""

Metrics = tuple[tuple[str, str], ...]
#: Host, component, metrics with units, and one value per metric; None = missed. A series that does not exist now is left out.
Reading = tuple[str, str, Metrics, list[float | None]]


class Source(Protocol):
    """One kind of thing to look at. Reading never waits and never raises for what is looked at: what cannot be read is None."""

    @property
    def lacks(self) -> str:
        """Why there is nothing of it here, in a few words; empty where there is."""

    def follow(self, entries: dict[str, Registered]) -> None:
        """The job's processes now, by component; called when they may have changed."""

    def read(self, mono_s: float) -> Iterable[Reading]:
        """Everything as it is now. Rates are over the time since the last reading."""

    def close(self) -> None:
        """Give everything back; idempotent."""
