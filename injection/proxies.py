"""A relay on every link of a job, in every arm, so that no address marks the target: the plain host's way to shape a link."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from injection.place import Place, PlaceError, Process
from storage.records import Link

START_S = 30.0


@dataclass(frozen=True)
class Relays:
    """The running relays: where to dial each link, and where they are told what to do."""

    dial: dict[str, str]
    """link name -> ``ip:port`` to dial instead of the link's own address"""
    api: str
    """``ip:port`` of the Toxiproxy-shaped HTTP API"""
    process: Process


def start_proxies(place: Place, links: list[Link], log: Path) -> Relays:
    """Start one relay process with a listener per link; ``link.address`` is where its server listens, now or later.

    It dies with the place. Raises PlaceError, with its last words, if it does not come up.
    """
    config, ready = place.scratch / "links.json", place.scratch / "relays.json"
    ready.unlink(missing_ok=True)
    config.write_text(json.dumps([{"name": link.name, "listen": "127.0.0.1:0", "upstream": link.address} for link in links]))
    argv = [
        sys.executable,
        "-m",
        "injection.proxy",
        "--listen-api",
        "127.0.0.1:0",
        "--config",
        str(config),
        "--ready",
        str(ready),
    ]
    process = place.spawn(argv, host=place.hosts[0], log=log)
    deadline = time.monotonic() + START_S
    while not ready.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            words = log.read_text(errors="replace").strip().splitlines()
            raise PlaceError(f"the relays did not come up: {words[-1] if words else 'no word from them'}")
        time.sleep(0.01)
    state = json.loads(ready.read_text())
    return Relays(state["dial"], state["api"], process)
