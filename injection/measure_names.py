"""Measurements of names: what the system's own resolver says on a virtual host."""

from __future__ import annotations

import socket
import time
from typing import Any

from injection import namespace
from injection.virtual.addresses import BRIDGE_ADDRESS, DNS_PORT

#: What `getaddrinfo` says: there is no such name; nobody could tell.
OUTCOMES = {socket.EAI_NONAME: "unknown", socket.EAI_AGAIN: "failed"}


def lookup(host: str, name: str) -> dict[str, Any]:
    """What becomes of looking a name up on a virtual host: `address` (then it is given), `unknown` or `failed`; how long."""

    def ask() -> tuple[str, str]:
        try:
            found = socket.getaddrinfo(name, None, socket.AF_INET, socket.SOCK_STREAM)
        except socket.gaierror as error:
            return OUTCOMES.get(error.errno or 0, f"error {error.errno}"), ""
        return "address", str(found[0][4][0])

    began = time.monotonic()
    outcome, address = namespace.within(host, ask)
    return {"outcome": outcome, "address": address, "lookup_s": round(time.monotonic() - began, 4)}


def resolver_address(host: str) -> dict[str, Any]:
    """The address that a virtual host's resolver asks from."""

    def ask() -> str:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((BRIDGE_ADDRESS, DNS_PORT))  # sends nothing
            return str(probe.getsockname()[0])

    return {"address": namespace.within(host, ask)}
