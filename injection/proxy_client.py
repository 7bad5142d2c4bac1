"""The hand on the per-link proxy: put a toxic on one link's proxy, take it off, list what is on it (Toxiproxy's HTTP API)."""

from __future__ import annotations

import http.client
import json
import secrets
from contextlib import closing
from typing import Any
from urllib.parse import quote

from injection.fault import Ask, Measurement, StuckError, Undo

TIMEOUT_S = 5.0


class ProxyError(RuntimeError):
    """The proxy answered with an error."""


class ProxyClient:
    """One proxy's API on loopback. Each call dials anew (0.1 ms): an idle connection would be closed by then."""

    def __init__(self, api: str, proxy: str) -> None:
        self._api = api
        self._path = f"/proxies/{quote(proxy, safe='')}"

    def proxy(self) -> dict[str, Any]:
        """The proxy as it is: listen, upstream, toxics. Raises ProxyError where there is none of that name."""
        return dict(self._call("GET", self._path))

    def add(self, name: str, kind: str, attributes: dict[str, float], stream: str = "upstream") -> None:
        """Put a toxic on the bytes that flow from the link's source to its destination (upstream), or on those that answer."""
        self._call("POST", f"{self._path}/toxics", {"name": name, "type": kind, "stream": stream, "attributes": attributes})

    def remove(self, name: str) -> None:
        """Take a toxic off; nothing to do where it is not there, or where the proxy itself is gone and its toxics with it."""
        try:
            self._call("DELETE", f"{self._path}/toxics/{quote(name, safe='')}", missing_is_fine=True)
        except ConnectionRefusedError:
            return

    def toxic_names(self) -> list[str] | None:
        """Names of the toxics in force; None where the proxy is gone."""
        try:
            return [toxic["name"] for toxic in self._call("GET", f"{self._path}/toxics")]
        except ConnectionRefusedError:
            return None

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None, *, missing_is_fine: bool = False) -> Any:
        headers = {"Content-Type": "application/json"}
        with closing(http.client.HTTPConnection(self._api, timeout=TIMEOUT_S)) as connection:
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            response = connection.getresponse()
            text = response.read()
        if response.status == http.HTTPStatus.NOT_FOUND and missing_is_fine:
            return None
        if response.status >= http.HTTPStatus.BAD_REQUEST:
            raise ProxyError(f"{method} {path}: {response.status} {text.decode(errors='replace')[:200]}")
        return json.loads(text) if text else None


#: Direction of a fault -> the proxy's words for it.
STREAMS = {"forward": ("upstream",), "backward": ("downstream",), "both": ("upstream", "downstream")}


class Toxic:
    """A toxic on one link's proxy, in one direction or both, under names of its own: several of a kind add up.

    Raises ProxyError or OSError where no such proxy stands.
    """

    def __init__(self, api: str, link: str, direction: str, kind: str, attributes: dict[str, float]) -> None:
        self._api, self._link, self._kind, self._attributes = api, link, kind, attributes
        self._names = {f"{kind}-{stream}-{secrets.token_hex(4)}": stream for stream in STREAMS[direction]}
        self._client = ProxyClient(api, link)
        self._client.proxy()

    def undo(self) -> Undo:
        """Where it sits."""
        return {"means": "toxic", "api": self._api, "proxy": self._link, "toxics": list(self._names)}

    def go(self) -> dict[str, Any]:
        """Put it on and read the list back."""
        for name, stream in self._names.items():
            self._client.add(name, self._kind, self._attributes, stream)
        return {"toxics": ", ".join(self._client.toxic_names() or [])}


def remove_toxic(undo: Undo) -> None:
    """Take the toxics of an undo record off. Raises StuckError."""
    try:
        for name in undo["toxics"]:
            ProxyClient(undo["api"], undo["proxy"]).remove(name)
    except (OSError, ProxyError) as error:
        raise StuckError(f"a toxic on {undo['proxy']} could not be removed: {error}") from error


def toxic_gone(undo: Undo, ask: Ask) -> Measurement:  # noqa: ARG001 - the proxy is another process already
    """The proxy (another process) lists no such toxic any more, or is gone itself."""
    names = ProxyClient(undo["api"], undo["proxy"]).toxic_names()
    off = not set(undo["toxics"]) & set(names or [])
    return Measurement(ok=off, probe="the proxy's own list", measured={"proxy_alive": names is not None})
