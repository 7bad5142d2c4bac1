"""The agent on the wire: JSON objects over gRPC, over TLS that wants a certificate of the other side as well, with a token."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import grpc

from injection.agent.agent import Message
from injection.agent.experiment import FailedError
from injection.agent.keys import Keys
from injection.fault import RefusedError
from injection.target import NoSuchTargetError, ProtectedError

SERVICE = "hostagent.Agent"
Method = Callable[[str, Message], Message]
MESSAGE_LIMIT_BYTES = 64 << 10
#: More than there can be experiments, each of which may hold one while it begins: a sign of life is never kept waiting.
THREADS = 48
#: What a refusal is on the wire; the first that fits.
STATUS: tuple[tuple[type[Exception], grpc.StatusCode], ...] = (
    (NoSuchTargetError, grpc.StatusCode.NOT_FOUND),
    (ProtectedError, grpc.StatusCode.PERMISSION_DENIED),
    (RefusedError, grpc.StatusCode.FAILED_PRECONDITION),
    (FailedError, grpc.StatusCode.ABORTED),
    (ValueError, grpc.StatusCode.INVALID_ARGUMENT),
    (OSError, grpc.StatusCode.INTERNAL),
)


def serve(address: str, keys: Keys, methods: dict[str, Method]) -> tuple[grpc.Server, int]:
    """Serve at `host:port` (port 0: any free one); the server and its port. Raises OSError when the address cannot be had."""
    options = [("grpc.max_receive_message_length", MESSAGE_LIMIT_BYTES), ("grpc.so_reuseport", 0)]
    server = grpc.server(ThreadPoolExecutor(THREADS, thread_name_prefix="grpc"), options=options)
    handlers = {name: _handler(method, keys) for name, method in methods.items()}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    pair = [(keys.key, keys.certificate)]
    credentials = grpc.ssl_server_credentials(pair, root_certificates=keys.ca, require_client_auth=True)
    try:
        port = int(server.add_secure_port(address, credentials))
    except RuntimeError as error:
        raise OSError(f"cannot listen on {address}: {error}") from None
    if not port:
        raise OSError(f"cannot listen on {address}")
    server.start()
    return server, port


def _handler(method: Method, keys: Keys) -> grpc.RpcMethodHandler:
    def call(body: bytes, context: grpc.ServicerContext) -> bytes:
        who = keys.name_of(dict(context.invocation_metadata()).get("authorization", ""))
        if not who:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token is not one of this agent's")
        try:
            answer = method(who, _object(body))
        except tuple(kind for kind, _ in STATUS) as error:
            status = next(status for kind, status in STATUS if isinstance(error, kind))
            context.abort(status, str(error))
        return json.dumps(answer).encode()

    return grpc.unary_unary_rpc_method_handler(call)


def _object(body: bytes) -> Message:
    try:
        message = json.loads(body)
    except RecursionError as error:
        raise ValueError("a message nested so deeply is none of ours") from error
    if not isinstance(message, dict):
        raise ValueError(f"not an object: {message!r}")  # noqa: TRY004 - the caller's value, not our type
    return message
