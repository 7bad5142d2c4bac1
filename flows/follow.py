"""Follow a flow run from outside: its state, its subflows' states and the lab's own log lines, as they come."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from flows.api import FINAL, Api

POLL_S = 1.0
#: Log lines arrive in batches and from several processes, so each look reaches this far back behind the last line seen.
OVERLAP = timedelta(seconds=10)
LOGGER = "faultline"


class Follower:
    """Shows each state and each line once."""

    def __init__(self, api: Api, run: str, show: Callable[[str], None]) -> None:
        self.api, self.run, self.show = api, run, show
        self.states: dict[str, str] = {}
        self.seen: set[str] = set()
        self.since = datetime.now(UTC) - OVERLAP
        self.started = time.monotonic()

    def to_the_end(self) -> dict[str, Any]:
        """Until the run is over; returns it. Raises `ServerError` when the server goes away."""
        while True:
            found = self.api.flow_run(self.run)
            children = self.api.children(self.run)
            for one in (found, *children):
                self._state(one)
            self._lines([self.run, *(child["id"] for child in children)])
            if found["state_type"] in FINAL:
                return found
            time.sleep(POLL_S)

    def _state(self, run: dict[str, Any]) -> None:
        if self.states.get(run["id"]) != run["state_name"]:
            self.states[run["id"]] = run["state_name"]
            self._say(f"{run['name']}: {str(run['state_name']).lower()}")

    def _lines(self, runs: list[str]) -> None:
        for line in self.api.logs(runs, (self.since - OVERLAP).isoformat()):
            self.since = max(self.since, datetime.fromisoformat(line["timestamp"]))
            if line["id"] not in self.seen and line["name"] == LOGGER:
                self._say(str(line["message"]).splitlines()[0])
            self.seen.add(line["id"])

    def _say(self, text: str) -> None:
        seconds = int(time.monotonic() - self.started)
        self.show(f"[{seconds // 60:02d}:{seconds % 60:02d}] {text}")
