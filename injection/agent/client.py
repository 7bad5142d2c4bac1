"""The experimenter's end: calls to an agent, and an experiment held in force by signs of life."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import grpc

from injection.agent.agent import Message
from injection.agent.keys import Keys
from injection.agent.server import SERVICE

#: How long an answer may take: to begin an experiment, to undo one, and all the rest.
RUN_S, CANCEL_S, ANSWER_S = 90.0, 100.0, 5.0
#: Signs of life in a lease.
BEATS = 4


class AgentError(RuntimeError):
    """The agent refused or failed, in its own words."""


class SilentAgentError(AgentError):
    """No agent that we trust, and that trusts us, answers there."""


class AgentClient:
    """One agent's methods. Raises AgentError, SilentAgentError, and ValueError for what the agent calls the asker's mistake."""

    def __init__(self, address: str, keys: Keys) -> None:
        self._address, self._metadata = address, (("authorization", keys.bearer()),)
        credentials = grpc.ssl_channel_credentials(keys.ca, keys.key, keys.certificate)
        self._channel = grpc.secure_channel(address, credentials, options=[("grpc.enable_http_proxy", 0)])

    def run(self, request: Message) -> Message:
        """Begin; answers when the faults are in force."""
        return self._call("Run", request, RUN_S)

    def beat(self, experiment: str) -> Message:
        """Keep the lease."""
        return self._call("Beat", {"experiment": experiment}, ANSWER_S)

    def status(self, experiment: str) -> Message:
        """Where it is."""
        return self._call("Status", {"experiment": experiment}, ANSWER_S)

    def list_all(self) -> list[Message]:
        """Where all are."""
        return list(self._call("List", {}, ANSWER_S)["experiments"])

    def cancel(self, experiment: str) -> Message:
        """Undo; answers when it is undone."""
        return self._call("Cancel", {"experiment": experiment}, CANCEL_S)

    def close(self) -> None:
        """Hang up."""
        self._channel.close()

    def _call(self, method: str, message: Message, timeout_s: float) -> Message:
        call = self._channel.unary_unary(f"/{SERVICE}/{method}")
        try:
            answer: dict[str, Any] = json.loads(call(json.dumps(message).encode(), timeout_s, self._metadata))
        except grpc.RpcError as error:
            code, words = error.code(), error.details() or ""
            if code == grpc.StatusCode.INVALID_ARGUMENT:
                raise ValueError(words) from None
            if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                raise SilentAgentError(f"no agent answers at {self._address}: {words}") from None
            raise AgentError(words) from None
        return answer


def keep(client: AgentClient, begun: Message, tell: Callable[[Message], None]) -> Message:
    """Keep an experiment's lease until it ends, telling where it is; interrupted, have it undone. Returns its last status.

    Signs of life that are lost are sent again, for as long as the lease may last; after that the agent has undone it by itself.
    """
    name, lease_s = str(begun["experiment"]), float(begun["lease_s"])
    status, heard = begun, time.monotonic()
    try:
        while status["state"] != "ended":
            time.sleep(lease_s / BEATS)
            try:
                status = client.status(name) if status["state"] == "ending" else client.beat(name)
                heard = time.monotonic()
            except SilentAgentError:
                if time.monotonic() - heard > lease_s:
                    raise
            except AgentError:  # it has just come to its end
                status = client.status(name)
            tell(status)
    except BaseException:
        client.cancel(name)
        raise
    return status
