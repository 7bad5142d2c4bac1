"""JSON objects over gRPC, served: generic handlers instead of generated code, and the standard health service beside them."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from rlhf.resilience.grpc_client import Message

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
