"""The callee's side: connections are read by threads of their own, but one request at a time is served, by the main thread.

So a busy server answers nobody, not even /health: from outside, busy and hung look alike. Who wants to tell them apart asks for
the status, which any thread answers: whether the engine is initialized, and what is being served since when.
"""

from __future__ import annotations

import json
import logging
import queue
import socket
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from rlhf import wire
from rlhf.request_id import REQUEST_ID, serving
from rlhf.resilience.readiness import READY_KEY, STATUS
from rlhf.rpc import CALL, CREATE_ENGINE, EVENT, HEALTH, Reply

logger = logging.getLogger(__name__)

BODY_LIMIT_BYTES = 256 << 20
ROUTES = (CREATE_ENGINE, CALL, EVENT)


class BadRequestError(Exception):
    """What was asked makes no sense; the text says why. Answered with 400."""


Serve = Callable[[str, dict[str, Any], dict[str, Any]], Reply]


class RpcServer:
    """Serves one component's calls: ``serve(path, meta, tensors)`` returns figures and tensors."""

    def __init__(
        self, listener: socket.socket, body_read_s: float, serve: Serve, initialized: Callable[[], bool] = lambda: True
    ):
        self._serve, self._initialized = serve, initialized
        self._serving: tuple[str, float] | None = None
        self._work: queue.Queue[tuple[Callable[[], bytes], Future[bytes]] | None] = queue.Queue()
        server, self._http = self, ThreadingHTTPServer(listener.getsockname(), _Handler, bind_and_activate=False)

        class Handler(_Handler):
            rpc = server
            body_read = body_read_s

        self._http.RequestHandlerClass = Handler
        self._http.socket.close()
        self._http.socket = listener
        self._http.daemon_threads = True

    def serve_forever(self) -> None:
        """Serve until `stop`; the calling thread does all the work."""
        threading.Thread(target=self._http.serve_forever, name="accept", daemon=True).start()
        while (item := self._work.get()) is not None:
            work, future = item
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)
                if not isinstance(error, Exception):
                    raise
        self._http.shutdown()
        self._http.server_close()

    def stop(self) -> None:
        """End `serve_forever` after what is already waiting."""
        self._work.put(None)

    def answer(self, path: str, body: bytes, request_id: str = "") -> bytes:
        """Have the main thread serve a request; blocks until it has. Raises what serving raised."""
        future: Future[bytes] = Future()
        self._work.put((lambda: self._answer(path, body, request_id), future))
        return future.result()

    def _answer(self, path: str, body: bytes, request_id: str) -> bytes:
        if path == HEALTH:
            return b"ok"
        try:
            meta, tensors = wire.decode(body)
        except ValueError as error:
            raise BadRequestError(f"malformed body: {error}") from error
        self._serving = (str(meta.get("method", path)), time.monotonic())
        try:
            with serving(request_id):
                return wire.encode(*self._serve(path, meta, tensors))
        finally:
            self._serving = None

    def status(self) -> dict[str, Any]:
        """Answers at once, from any thread."""
        served, since = self._serving or ("", time.monotonic())
        return {READY_KEY: self._initialized(), "serving": served, "serving_s": time.monotonic() - since}


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    rpc: RpcServer
    body_read: float
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """Health, when it is its turn, and status, at once."""
        if self.path == HEALTH:
            self._reply(200, self.rpc.answer(HEALTH, b""))
        elif self.path == STATUS:
            self._reply(200, json.dumps(self.rpc.status()).encode())
        else:
            self._reply(404, f"nothing at {self.path}".encode())

    def do_POST(self) -> None:
        """A call. The connection is closed after a body that was not read whole: what follows it is not a request."""
        start, request_id = time.monotonic(), self.headers.get(REQUEST_ID, "-")
        status, answer = self._serve_call(request_id)
        logger.info("%s %d in %.3fs request_id=%s", self.path, status, time.monotonic() - start, request_id)
        self._reply(status, answer)

    def _serve_call(self, request_id: str) -> tuple[int, bytes]:
        """Status and body of the answer."""
        length = self.headers.get("Content-Length", "")
        self.close_connection = True
        if not length.isdecimal():
            return 411, b"Content-Length is missing or not a number"
        if int(length) > BODY_LIMIT_BYTES:
            return 413, f"body of {length} bytes; at most {BODY_LIMIT_BYTES}".encode()
        try:
            body = self._body(int(length))
        except TimeoutError:
            return 408, f"body not read within {self.body_read:.1f}s".encode()
        if len(body) < int(length):
            return 400, f"body ended after {len(body)} of {length} bytes".encode()
        self.close_connection = False
        if self.path not in ROUTES:
            return 404, f"nothing at {self.path}".encode()
        try:
            return 200, self.rpc.answer(self.path, body, request_id)
        except BadRequestError as error:
            return 400, str(error).encode()
        except Exception as error:
            text = f"Exception: {error}\n{traceback.format_exc()}"
            logger.error("%s request_id=%s", text, request_id)  # noqa: TRY400 - the text ends in the traceback
            return 500, text.encode()

    def _body(self, length: int) -> bytes:
        """The request's body, shorter if the caller stopped. Raises TimeoutError when it is not here in time."""
        deadline, parts = time.monotonic() + self.body_read, []
        try:
            while length > 0:
                self.connection.settimeout(max(deadline - time.monotonic(), 0.001))
                part = self.rfile.read1(min(length, 1 << 20))
                if not part:
                    break
                parts.append(part)
                length -= len(part)
                if length and time.monotonic() > deadline:
                    raise TimeoutError
        except ConnectionError:
            pass  # the caller is gone; what there is of the body says so
        finally:
            self.connection.settimeout(None)
        return b"".join(parts)

    def _reply(self, status: int, body: bytes) -> None:
        """Headers and body leave together, and the caller wakes once."""
        lines = [f"{self.protocol_version} {status} {HTTPStatus(status).phrase}", f"Content-Length: {len(body)}"]
        lines += ["Connection: close"] if self.close_connection else []
        try:
            self.wfile.write("\r\n".join([*lines, "", ""]).encode() + body)
        except OSError as error:
            logger.warning("the caller is gone: %s", error)
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        """Requests are logged with their ids elsewhere."""
