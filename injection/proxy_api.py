"""The proxy's HTTP API, shaped like Toxiproxy's, so that existing clients drive it. State is in memory; nothing here waits."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from aiohttp import web

from injection.relay import COUNTED, Proxy
from injection.toxics import Toxic, ToxicError, checked_toxicity, make_effect, make_toxic

VERSION = "2.12.0"
#: How long a request may take to come and be answered.
PATIENCE_S = 25.0
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ApiError(Exception):
    """An answer other than success: status and sentence."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@web.middleware
async def explain_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn errors into ``{"error", "status"}``."""
    try:
        refuse_browsers(request)
        return await asyncio.wait_for(handler(request), PATIENCE_S)
    except TimeoutError:  # a body that never comes
        return web.Response(status=503)
    except ApiError as error:
        return web.json_response({"error": str(error), "status": error.status}, status=error.status)
    except ToxicError as error:
        return web.json_response({"error": str(error), "status": 400}, status=400)


def refuse_browsers(request: web.Request) -> None:
    """A page from anywhere could otherwise drive the proxy through its reader's browser. Raises ApiError."""
    if request.headers.get("User-Agent", "").startswith("Mozilla/"):
        raise ApiError(403, "User agent not allowed")


class Api:
    """The collection of proxies behind the routes."""

    def __init__(self) -> None:
        self.proxies: dict[str, Proxy] = {}

    def application(self) -> web.Application:
        """The routes."""
        app = web.Application(middlewares=[explain_errors])
        one, toxics, toxic = "/proxies/{proxy}", "/proxies/{proxy}/toxics", "/proxies/{proxy}/toxics/{toxic}"
        app.add_routes(
            [
                web.get("/version", self.version),
                web.get("/metrics", self.metrics),
                web.post("/reset", self.reset),
                web.post("/populate", self.populate),
                web.get("/proxies", self.list_proxies),
                web.post("/proxies", self.create_proxy),
                web.get(one, self.show_proxy),
                web.post(one, self.update_proxy),
                web.patch(one, self.update_proxy),
                web.delete(one, self.delete_proxy),
                web.get(toxics, self.list_toxics),
                web.post(toxics, self.create_toxic),
                web.get(toxic, self.show_toxic),
                web.post(toxic, self.update_toxic),
                web.patch(toxic, self.update_toxic),
                web.delete(toxic, self.delete_toxic),
            ]
        )
        return app

    async def version(self, request: web.Request) -> web.Response:  # noqa: ARG002 - a handler's signature
        """The version of the API that is followed."""
        return web.json_response({"version": VERSION})

    async def metrics(self, request: web.Request) -> web.Response:  # noqa: ARG002 - a handler's signature
        """Bytes of each proxy and direction, as Prometheus reads them."""
        return web.Response(text=exposition(self.proxies.values()))

    async def reset(self, request: web.Request) -> web.Response:  # noqa: ARG002 - a handler's signature
        """Every proxy enabled, no toxic left."""
        for proxy in self.proxies.values():
            for name in list(proxy.toxics):
                proxy.take_off(name)
            await started(proxy)
        return web.Response(status=204)

    async def list_proxies(self, request: web.Request) -> web.Response:  # noqa: ARG002 - a handler's signature
        """All, by name."""
        return web.json_response({name: proxy.as_json() for name, proxy in self.proxies.items()})

    async def create_proxy(self, request: web.Request) -> web.Response:
        """One more."""
        body = await json_object(request)
        check_fields(body)
        if body["name"] in self.proxies:
            raise ApiError(409, "proxy already exists")
        return web.json_response((await self.add(body)).as_json(), status=201)

    async def add(self, body: dict[str, Any]) -> Proxy:
        """Make, start unless disabled, and list a proxy. Raises ApiError."""
        proxy = Proxy(body["name"], body.get("listen") or "127.0.0.1:0", body["upstream"])
        if body.get("enabled", True):
            await started(proxy)
        self.proxies[proxy.name] = proxy
        return proxy

    async def populate(self, request: web.Request) -> web.Response:
        """Create each, or replace it where listen or upstream differ. What came before an error stays, and is told."""
        bodies = await json_body(request)
        if not isinstance(bodies, list):
            raise ApiError(400, "bad request body: not an array of proxies")
        for body in bodies:
            check_fields(body)
        done: list[Proxy] = []
        try:
            for body in bodies:
                done.append(await self._create_or_replace(body))  # noqa: PERF401 - an error must leave what was done
        except ApiError as error:
            answer = {"error": str(error), "status": error.status, "proxies": shown(done)}
            return web.json_response(answer, status=error.status)
        return web.json_response({"proxies": shown(done)}, status=201)

    async def _create_or_replace(self, body: dict[str, Any]) -> Proxy:
        old = self.proxies.get(body["name"])
        if old is not None:
            if old.listen == body.get("listen") and old.upstream == body["upstream"]:
                return old
            self.proxies.pop(old.name).stop()
        return await self.add(body)

    def find(self, request: web.Request) -> Proxy:
        """The proxy the path names. Raises ApiError."""
        try:
            return self.proxies[request.match_info["proxy"]]
        except KeyError:
            raise ApiError(404, "proxy not found") from None

    def find_toxic(self, request: web.Request) -> tuple[Proxy, Toxic]:
        """The toxic the path names, and its proxy. Raises ApiError."""
        proxy = self.find(request)
        try:
            return proxy, proxy.toxics[request.match_info["toxic"]]
        except KeyError:
            raise ApiError(404, "toxic not found") from None

    async def show_proxy(self, request: web.Request) -> web.Response:
        """One."""
        return web.json_response(self.find(request).as_json())

    async def update_proxy(self, request: web.Request) -> web.Response:
        """New listen or upstream drop the connections; ``enabled`` false takes the link down."""
        proxy, body = self.find(request), await json_object(request)
        listen, upstream = body.get("listen") or proxy.listen, body.get("upstream") or proxy.upstream
        enabled = bool(body.get("enabled", proxy.enabled))
        if (listen, upstream) != (proxy.listen, proxy.upstream) or not enabled:
            proxy.stop()
        proxy.listen, proxy.upstream = listen, upstream
        if enabled:
            await started(proxy)
        return web.json_response(proxy.as_json())

    async def delete_proxy(self, request: web.Request) -> web.Response:
        """Away with it and its connections."""
        self.proxies.pop(self.find(request).name).stop()
        return web.Response(status=204)

    async def list_toxics(self, request: web.Request) -> web.Response:
        """All of a proxy, in the order in which they act."""
        return web.json_response([toxic.as_json() for toxic in self.find(request).toxics.values()])

    async def create_toxic(self, request: web.Request) -> web.Response:
        """One more; connections that exist suffer it at once."""
        proxy, body = self.find(request), await json_object(request)
        toxic = make_toxic(body)
        if toxic.name in proxy.toxics:
            raise ApiError(409, "toxic already exists")
        proxy.put_on(toxic)
        return web.json_response(toxic.as_json())

    async def show_toxic(self, request: web.Request) -> web.Response:
        """One."""
        return web.json_response(self.find_toxic(request)[1].as_json())

    async def update_toxic(self, request: web.Request) -> web.Response:
        """Attributes and toxicity, nothing else."""
        proxy, toxic = self.find_toxic(request)
        body = await json_object(request)
        changed = make_effect(toxic.type, vars(toxic.effect) | (body.get("attributes") or {}))
        toxic.toxicity = checked_toxicity(body.get("toxicity", toxic.toxicity))
        vars(toxic.effect).update(vars(changed))
        proxy.put_on(toxic)
        return web.json_response(toxic.as_json())

    async def delete_toxic(self, request: web.Request) -> web.Response:
        """Off with it."""
        proxy, toxic = self.find_toxic(request)
        proxy.take_off(toxic.name)
        return web.Response(status=204)


def exposition(proxies: Iterable[Proxy]) -> str:
    """The counters of proxies in Prometheus' text format."""
    lines = []
    for what in COUNTED:
        name = f"toxiproxy_proxy_{what}_bytes_total"
        lines += [f"# HELP {name} Bytes {what} by a proxy.", f"# TYPE {name} counter"]
        for proxy in proxies:
            where = {"proxy": proxy.name, "listener": proxy.listen, "upstream": proxy.upstream}
            for (stream, which), count in proxy.carried().items():
                labels = ",".join(f"{key}={json.dumps(value)}" for key, value in {"direction": stream, **where}.items())
                lines += [f"{name}{{{labels}}} {count}"] if which == what else []
    return "\n".join([*lines, ""])


async def started(proxy: Proxy) -> None:
    """Start a proxy. Raises ApiError where its address is malformed (400) or cannot be listened on (500)."""
    try:
        await proxy.start()
    except ValueError as error:
        raise ApiError(400, f"bad request body: {error}") from None
    except OSError as error:
        raise ApiError(500, f"listen tcp {proxy.listen}: {error.strerror or error}") from None


async def json_body(request: web.Request) -> Any:
    """The body as JSON. Raises ApiError."""
    try:
        return await request.json()
    except ValueError as error:
        raise ApiError(400, f"bad request body: {error}") from None


async def json_object(request: web.Request) -> dict[str, Any]:
    """The body as a JSON object. Raises ApiError."""
    body = await json_body(request)
    if not isinstance(body, dict):
        raise ApiError(400, "bad request body: not an object")
    return body


def check_fields(body: Any) -> None:
    """A proxy needs a name and an upstream. Raises ApiError."""
    for field in ("name", "upstream"):
        if not isinstance(body, dict) or not isinstance(body.get(field), str) or not body[field]:
            raise ApiError(400, f"missing required field: {field}")


def shown(proxies: Iterable[Proxy]) -> list[dict[str, Any]]:
    """As JSON."""
    return [proxy.as_json() for proxy in proxies]
