"""The server's side of heartbeats over gRPC: beats go to a failure detector, and the answer tells who is offline."""

from __future__ import annotations

import grpc

from rlhf.resilience.failure_detector import FailureDetector
from rlhf.resilience.grpc_client import Message
from rlhf.resilience.grpc_server import serve
from rlhf.resilience.heartbeat import BEAT, SERVICE


def serve_heartbeats(address: str, detector: FailureDetector) -> tuple[grpc.Server, str]:
    """Take beats at ``host:port`` for ``detector``; the server and its address. Raises OSError."""

    def beat(message: Message) -> Message:
        client, number = message.get("client"), message.get("number")
        if not isinstance(client, str) or not isinstance(number, int):
            raise ValueError("a beat names its client and its number")  # noqa: TRY004 - the caller's value, not our type
        counts = detector.beat(client, paused=message.get("paused") is True)
        return {"number": number, "counts": counts, "offline": detector.offline()}

    return serve(address, SERVICE, {BEAT: beat})
