"""Waiting until a server can serve. That it answers (liveness) is less: a web server is up before its workers exist.

Readiness is what `/api/v1/status` says (`is_initialized`); `/api/v1/health` says "healthy" as soon as anything listens.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

import requests

HEALTH, STATUS = "/api/v1/health", "/api/v1/status"
READY_KEY = "is_initialized"
INTERVAL_S = 5.0
TIMEOUT_S = 300.0
ASK_TIMEOUT_S = 5.0
#: Smallest time-out of one question, seconds; what is left of the whole wait may be less than a round trip needs.
ASK_FLOOR_S = 0.05


@dataclass(frozen=True)
class Sighting:
    """What one attempt saw, `waited_s` seconds after the first began."""

    attempt: int
    waited_s: float
    saw: str
    ready: bool


@dataclass(frozen=True)
class Wait:
    """A wait that is over: asked what, saw what, and how long it took in all."""

    url: str
    ready: bool
    total_s: float
    sightings: tuple[Sighting, ...]


def endpoint(url: str, *, live: bool = False) -> str:
    """What to ask: a URL with a path as it is, a bare server by its readiness, or its liveness. Raises ValueError."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"not a URL of a server: {url!r}; it looks like http://localhost:38001")
    return url if parts.path.strip("/") else f"{parts.scheme}://{parts.netloc}{HEALTH if live else STATUS}"


def look(url: str, timeout_s: float) -> tuple[str, bool]:
    """What a server says now, in a few words, and whether it is ready.

    It is when it answers 200 and, if its answer is an object that speaks of being initialized, says that it is.
    """
    try:
        with requests.Session() as session:
            session.trust_env = False
            response = session.get(url, timeout=timeout_s)
    except requests.Timeout:
        return "no answer in time", False
    except requests.RequestException:
        return "connection failed", False
    saw = f"HTTP {response.status_code}"
    if response.status_code != requests.codes.ok:
        return saw, False
    try:
        body = response.json()
    except ValueError:
        return saw, True
    if isinstance(body, dict) and READY_KEY in body and body[READY_KEY] is not True:
        return f"{saw}, not initialized", False
    return saw, True


def wait_until_ready(
    url: str,
    timeout_s: float = TIMEOUT_S,
    interval_s: float = INTERVAL_S,
    *,
    told: Callable[[Sighting], None] = lambda _: None,
    ask: Callable[[str, float], tuple[str, bool]] = look,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Wait:
    """Ask every `interval_s` until ready or `timeout_s` is over (the last question is asked then); `told` hears of each."""
    start, sightings = clock(), list[Sighting]()
    while True:
        waited_s = clock() - start
        saw, ready = ask(url, max(min(ASK_TIMEOUT_S, timeout_s - waited_s), ASK_FLOOR_S))
        sightings.append(Sighting(len(sightings) + 1, waited_s, saw, ready))
        told(sightings[-1])
        left_s = timeout_s - (clock() - start)
        if ready or left_s <= 0:
            return Wait(url, ready, clock() - start, tuple(sightings))
        sleep(min(interval_s, left_s))
