"""The server's side of the restart protocol: says what it is doing, and on request makes room and exits with code 0.

Whoever supervises it must start it again after *any* exit code.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from aiohttp import web

from rlhf.request_id import REQUEST_ID
from rlhf.resilience.restart_protocol import HEALTH, INSTANCE, RESTART, STATUS

logger = logging.getLogger(__name__)

#: Between the answer and the exit, seconds: the answer must get out.
LEAVE_AFTER_S = 1.0
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class RestartRoutes:
    """Adds `/restart`, `/health` and `/status` to an application and keeps count of its requests.

    ``caches`` are emptied before leaving; ``leave`` ends the process at once, without waiting for what hangs.
    """

    def __init__(
        self,
        app: web.Application,
        caches: Iterable[Callable[[], object]] = (),
        leave: Callable[[int], object] = os._exit,
        leave_after_s: float = LEAVE_AFTER_S,
    ):
        self.instance = uuid.uuid4().hex
        self._caches, self._leave, self._leave_after_s = tuple(caches), leave, leave_after_s
        self._active: dict[int, tuple[str, str, float]] = {}
        app.middlewares.append(self._track)
        app.add_routes([web.get(HEALTH, self._health), web.get(STATUS, self._status), web.post(RESTART, self._restart)])

    def active(self) -> list[dict[str, Any]]:
        """Requests being served, oldest first, with the seconds they have taken."""
        now = time.monotonic()
        entries = sorted(self._active.values(), key=lambda entry: entry[2])
        return [{"request_id": name, "path": path, "seconds": now - start} for name, path, start in entries]

    @web.middleware
    async def _track(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path in (HEALTH, STATUS, RESTART):
            return await handler(request)
        key = id(request)
        self._active[key] = (request.headers.get(REQUEST_ID, "-"), request.path, time.monotonic())
        try:
            return await handler(request)
        finally:
            del self._active[key]

    async def _health(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "healthy", INSTANCE: self.instance})

    async def _status(self, _: web.Request) -> web.Response:
        return web.json_response({"active": self.active(), INSTANCE: self.instance})

    async def _restart(self, _: web.Request) -> web.Response:
        active = self.active()
        logger.warning("SERVER RESTART REQUESTED, with %d active requests", len(active))
        for entry in active:
            logger.warning("  [%s] %s - %.1fs", entry["request_id"], entry["path"], entry["seconds"])
        for empty in self._caches:
            try:
                empty()
            except Exception:
                logger.exception("a cache could not be emptied")
        asyncio.get_running_loop().call_later(self._leave_after_s, self._leave, 0)
        return web.json_response({"status": "restarting", "active": active, INSTANCE: self.instance})
