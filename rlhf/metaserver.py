"""The store through which weights travel: keys to bytes or JSON, in memory, in a process of its own. It never evicts."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from contextlib import suppress
from typing import Any

from aiohttp import web

from rlhf.plain import parse_json
from rlhf.request_id import REQUEST_ID
from rlhf.stats import StatsTracker

logger = logging.getLogger(__name__)

CLIENT_MAX_BYTES = 2 << 30


class MetaServer:
    """Handlers over dictionaries. What they hold is told with every JSON value put, which makes chunks visible, and delete."""

    def __init__(self, stats: StatsTracker) -> None:
        self._stats = stats
        self._binary: dict[str, bytes] = {}
        self._json: dict[str, Any] = {}
        self._next_ids: dict[str, int] = {}
        self._stored = asyncio.Condition()

    def app(self) -> web.Application:
        """The HTTP application. Keys may hold slashes."""
        app = web.Application(client_max_size=CLIENT_MAX_BYTES)
        app.add_routes(
            [
                web.put("/v1/put_binary/{key:.+}", self._put_binary),
                web.get("/v1/get_binary/{key:.+}", self._get_binary),
                web.put("/v1/put_json/{key:.+}", self._put_json),
                web.get("/v1/get_json/{key:.+}", self._get_json),
                web.get("/v1/has_key/{key:.+}", self._has_key),
                web.get("/v1/keys", self._keys),
                web.put("/v1/add_object_to_set/{key:.+}", self._add_object_to_set),
                web.post("/v1/allocate_auto_grow_id/{key:.+}", self._allocate_auto_grow_id),
                web.delete("/v1/delete/{key:.+}", self._delete),
                web.get("/v1/health", self._health),
            ]
        )
        return app

    async def _put_binary(self, request: web.Request) -> web.Response:
        key = request.match_info["key"]
        self._binary[key] = await request.read()
        await self._tell()
        return web.json_response({"size": len(self._binary[key])})

    async def _get_binary(self, request: web.Request) -> web.Response:
        key = request.match_info["key"]
        if key not in self._binary:
            return _not_found(key)
        return web.Response(body=self._binary[key], content_type="application/octet-stream")

    async def _put_json(self, request: web.Request) -> web.Response:
        key = request.match_info["key"]
        try:
            self._json[key] = parse_json(await request.read())
        except ValueError as error:
            return web.Response(status=400, text=f"value of '{key}' is not JSON: {error}")
        logger.info("stored %s request_id=%s", key, request.headers.get(REQUEST_ID, "-"))
        self._tell_size()
        await self._tell()
        return web.json_response({"stored": key})

    async def _get_json(self, request: web.Request) -> web.Response:
        key = request.match_info["key"]
        if key not in self._json:
            return _not_found(key)
        logger.info("read %s request_id=%s", key, request.headers.get(REQUEST_ID, "-"))
        return web.json_response(self._json[key])

    async def _has_key(self, request: web.Request) -> web.Response:
        """Whether a key is there: as soon as it is, but at the latest after `wait_s` seconds (query, default 0)."""
        key = request.match_info["key"]
        try:
            wait_s = float(request.query.get("wait_s", "0"))
        except ValueError:
            return web.Response(status=400, text=f"wait_s is not a number: {request.query['wait_s']!r}")
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s), self._stored:
                await self._stored.wait_for(lambda: self._has(key))
        return web.json_response({"has_key": self._has(key)})

    def _has(self, key: str) -> bool:
        return key in self._binary or key in self._json

    async def _tell(self) -> None:
        """Wake who waits for a key."""
        async with self._stored:
            self._stored.notify_all()

    async def _add_object_to_set(self, request: web.Request) -> web.Response:
        """Add a JSON value to the list under a key, unless it is there; a key that holds something else is left alone."""
        key = request.match_info["key"]
        try:
            value = parse_json(await request.read())
        except ValueError as error:
            return web.Response(status=400, text=f"object for '{key}' is not JSON: {error}")
        members = self._json.setdefault(key, [])
        if not isinstance(members, list):
            return web.Response(status=409, text=f"Key '{key}' holds no set")
        if value not in members:
            members.append(value)
        return web.json_response({"size": len(members)})

    async def _allocate_auto_grow_id(self, request: web.Request) -> web.Response:
        """A number for each call, from 0 up, counted for each key."""
        key = request.match_info["key"]
        allocated = self._next_ids.get(key, 0)
        self._next_ids[key] = allocated + 1
        return web.json_response({"id": allocated})

    async def _keys(self, _: web.Request) -> web.Response:
        return web.json_response({"keys": sorted([*self._binary, *self._json])})

    async def _delete(self, request: web.Request) -> web.Response:
        """Remove a key and, like a folder, what lies under it."""
        key = request.match_info["key"]
        found = [(store, name) for store in (self._binary, self._json) for name in store if f"{name}/".startswith(f"{key}/")]
        for store, name in found:
            del store[name]
        self._tell_size()
        return web.json_response({"deleted": key}) if found else _not_found(key)

    async def _health(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "healthy", "storage_size": self._size()})

    def _size(self) -> int:
        """Bytes of all binary values."""
        return sum(map(len, self._binary.values()))

    def _tell_size(self) -> None:
        keys = len(self._binary) + len(self._json)
        self._stats.scalar("", -1, store_bytes=self._size(), store_keys_count=keys)


def _not_found(key: str) -> web.Response:
    return web.Response(status=404, text=f"Key '{key}' not found")


async def serve_app(app: web.Application, listener: socket.socket) -> web.AppRunner:
    """Serve an application on a listening socket; `cleanup` of what is returned ends it."""
    runner = web.AppRunner(app, access_log=None, handle_signals=False, keepalive_timeout=3600)
    await runner.setup()
    await web.SockSite(runner, listener).start()
    return runner


def serve_forever(app: web.Application, listener: socket.socket) -> None:
    """Serve until the process is ended."""

    async def serve() -> None:
        await serve_app(app, listener)
        await asyncio.Event().wait()

    asyncio.run(serve())


def serve_beside(app: web.Application, listener: socket.socket) -> None:
    """Serve in a thread of this process, as long as it lives."""
    threading.Thread(target=serve_forever, args=(app, listener), name="metaserver", daemon=True).start()
