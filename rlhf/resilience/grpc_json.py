"""JSON objects over gRPC: generic handlers instead of generated code, and the standard health service beside them."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

Message = dict[str, Any]
Method = Callable[[Message], Message]

THREADS = 4
MESSAGE_LIMIT_BYTES = 1 << 20


def serve(address: str, service: str, methods: dict[str, Method]) -> tuple[grpc.Server, str]:
    """Serve ``methods`` of ``service`` and grpc.health.v1 at ``host:port`` (port 0: any free one); the server and its address.

    A ValueError of a method is answered with INVALID_ARGUMENT and its text. Raises OSError when the address cannot be had.
    """
    options = (("grpc.max_receive_message_length", MESSAGE_LIMIT_BYTES), ("grpc.so_reuseport", 0))
    server = grpc.server(ThreadPoolExecutor(THREADS, thread_name_prefix="grpc"), options=options)
    handlers = {name: _handler(method) for name, method in methods.items()}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    servicer = health.HealthServicer()
    for name in ("", service):
        servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise OSError(f"cannot listen on {address}: {error}") from None
    server.start()
    return server, f"{address.rpartition(':')[0]}:{port}"


def _handler(method: Method) -> grpc.RpcMethodHandler:
    def call(body: bytes, context: grpc.ServicerContext) -> bytes:
        try:
            return json.dumps(method(_object(body))).encode()
        except ValueError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            raise  # abort has raised already

    return grpc.unary_unary_rpc_method_handler(call)


def _object(body: bytes) -> Message:
    message = json.loads(body)
    if not isinstance(message, dict):
        raise ValueError(f"not an object: {message!r}")  # noqa: TRY004 - the caller's value, not our type
    return message


class JsonClient:
    """Calls one server; the channel reconnects by itself."""

    def __init__(self, address: str, service: str):
        self.address = address
        self._service = service
        # Reconnecting waits up to two minutes by default; who calls has a time-out and a policy of its own.
        options = (("grpc.enable_http_proxy", 0), ("grpc.max_reconnect_backoff_ms", 1000))
        self._channel = grpc.insecure_channel(address, options=options)

    def call(self, method: str, message: Message, timeout_s: float) -> Message:
        """The answer. Raises ConnectionError when nobody answers in time, ValueError when the server refuses the message."""
        ask = self._channel.unary_unary(f"/{self._service}/{method}")
        try:
            answer: Message = json.loads(ask(json.dumps(message).encode(), timeout=timeout_s))
        except grpc.RpcError as error:
            text = f"{self.address}: {method}: {error.code().name}: {error.details()}"
            if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                raise ConnectionError(text) from error
            raise ValueError(text) from error
        return answer

    def healthy(self, timeout_s: float) -> bool:
        """What the standard health service says of this service."""
        stub = health_pb2_grpc.HealthStub(self._channel)
        try:
            status = stub.Check(health_pb2.HealthCheckRequest(service=self._service), timeout=timeout_s).status
        except grpc.RpcError:
            return False
        return bool(status == health_pb2.HealthCheckResponse.SERVING)

    def close(self) -> None:
        self._channel.close()
