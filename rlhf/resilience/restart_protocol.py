"""What client and server of the restart protocol must agree on: routes, answers, and settings by their well-known names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

RESTART, HEALTH, STATUS = "/restart", "/health", "/status"
#: In every answer: a word that another process behind the same address does not say.
INSTANCE = "instance"


def route_url(server: str, route: str) -> str:
    """The URL of a route of this protocol. It lies at the server's root, whatever path its other routes begin with (`/v1`)."""
    parts = urlsplit(server)
    if not parts.scheme or not parts.netloc:
        raise ValueError(f"not a URL of a server: {server!r}")
    return f"{parts.scheme}://{parts.netloc}{route}"


@dataclass(frozen=True)
class RestartSettings:
    """All durations in seconds. ``timeouts_before_restart`` counts time-outs in a row, over all requests of a client."""

    enabled: bool = True
    wait_s: float = 30.0
    """at most from the request to restart until the server is back"""
    request_timeout_s: float = 60.0
    attempts: int = 4
    base_s: float = 1.0
    """first wait between tries; doubles"""
    timeouts_before_restart: int = 1
    ask_timeout_s: float = 5.0
    settle_s: float = 5.0
    """before the first question whether it is back"""
    poll_s: float = 2.0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> RestartSettings:
        """The defaults, with ENABLE_SERVER_RESTART and SERVER_RESTART_WAIT_TIME obeyed. Raises ValueError."""
        enabled = environment.get("ENABLE_SERVER_RESTART", "true").strip().lower()
        if enabled not in ("true", "false"):
            raise ValueError(f"ENABLE_SERVER_RESTART is {enabled!r}; allowed: true, false")
        text = environment.get("SERVER_RESTART_WAIT_TIME", "30")
        try:
            wait_s = float(text)
        except ValueError:
            wait_s = -1.0
        if not 0 < wait_s < float("inf"):
            raise ValueError(f"SERVER_RESTART_WAIT_TIME is {text!r}; it is a number of seconds above 0")
        return cls(enabled=enabled == "true", wait_s=wait_s)

    def scaled(self, time_scale: float) -> RestartSettings:
        """Every duration divided by ``time_scale``."""
        names = [name for name in self.__dataclass_fields__ if name.endswith("_s")]
        return replace(self, **{name: getattr(self, name) / time_scale for name in names})
