"""The controller's eye on the processes that have no engine: they hold nothing that cannot be sent or asked again."""

from __future__ import annotations

from collections.abc import Sequence

import requests

from rlhf.config import JobConfig
from rlhf.links import open_session
from rlhf.topology import services

HEALTH = {"metaserver": "v1/health", "reward": "health"}


class Services:
    """MetaServer and reward server. A MetaServer that comes back is empty: whoever needs weights has them sent anew."""

    def __init__(self, config: JobConfig):
        self._timeout_s = config.timeout_s("health")
        self._sessions = {name: open_session("controller", name, purpose) for name, purpose in services(config).items()}

    def lost(self) -> list[str]:
        """Names of those that do not say that they are healthy."""
        return [name for name in self._sessions if not self._healthy(name)]

    def retire(self, _: Sequence[str]) -> list[str]:
        """Nobody has to be started again with one of these."""
        return []

    def leave(self, _: str) -> bool:
        """None: there is one of each."""
        return False

    def renew(self, _: set[str]) -> None:
        """None of them has an engine."""

    def _healthy(self, name: str) -> bool:
        try:
            return self._sessions[name].get(f"http://{name}/{HEALTH[name]}", timeout=self._timeout_s).ok
        except requests.RequestException:
            return False
