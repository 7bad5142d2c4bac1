"""The hand on the per-link proxy: put a toxic on one link's proxy, take it off, list what is on it (Toxiproxy's HTTP API)."""

from __future__ import annotations

import http.client
import json
from contextlib import closing
from typing import Any
from urllib.parse import quote

from injection.fault import Measurement, StuckError

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

    def add(self, name: str, kind: str, attributes: dict[str, float]) -> None:
        """Put a toxic on the bytes that flow from the link's source to its destination."""
        self._call("POST", f"{self._path}/toxics", {"name": name, "type": kind, "stream": "upstream", "attributes": attributes})

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


def toxic_undo(api: str, proxy: str, toxic: str) -> dict[str, str]:
    """Where a toxic sits: enough to take it off."""
    return {"backend": "proxy", "api": api, "proxy": proxy, "toxic": toxic}


def remove_toxic(undo: dict[str, str]) -> None:
    """Take the toxic of an undo record off. Raises StuckError."""
    try:
        ProxyClient(undo["api"], undo["proxy"]).remove(undo["toxic"])
    except (OSError, ProxyError) as error:
        raise StuckError(f"toxic {undo['toxic']} on {undo['proxy']} could not be removed: {error}") from error


def toxic_gone(undo: dict[str, str]) -> Measurement:
    """The proxy (another process) lists no such toxic any more, or is gone itself."""
    names = ProxyClient(undo["api"], undo["proxy"]).toxic_names()
    off = undo["toxic"] not in (names or [])
    return Measurement(ok=off, probe="the proxy's own list", measured={"proxy_alive": names is not None})
