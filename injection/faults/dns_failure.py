"""The name that a link is dialled by does not resolve, or to the wrong address, on the host of whoever dials.

Connections that stand are not touched: it is felt when the next one is made. A resolver asks from its host's address, so
every component on that host is told the same about that name.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from injection import strays
from injection.fault import Ask, Context, Measurement, RefusedError, Undo

#: Socket of the name server, in the folder of the place.
SOCKET = "names"
ANSWER_S = 5.0
#: What a resolver says to each (`socket.gaierror`), or that it got an address.
EXPECTED = {"nxdomain": "unknown", "servfail": "failed", "timeout": "failed", "wrong": "address"}


@dataclass(frozen=True)
class Params:
    """`how`: nxdomain: there is no such name; servfail: the server cannot tell; timeout: it is silent.

    wrong: it tells an address that nobody has.
    """

    how: Literal["nxdomain", "servfail", "timeout", "wrong"]


class DnsFailure:
    """The job's name server is told what to say, over a connection that must stay open for it."""

    parameters = Params

    def __init__(self, ctx: Context, params: Params) -> None:
        self._ctx = ctx
        self._params = params
        self._link = ctx.link()
        self._id = secrets.token_hex(8)
        self._line: socket.socket | None = None

    def arm(self) -> None:
        """Reach the name server. Raises RefusedError where there is none, or the link is not dialled by name."""
        self._socket = str(Path(os.environ.get(strays.MARK, "")) / SOCKET)
        if not self._link.dst_name:
            raise RefusedError(f"{self._link.name} is dialled by address: names need the virtual cluster and its name server")
        self._client = self._ctx.ask("resolver_address", {"host": self._link.src_host})["address"]
        try:
            self._line = _connect(self._socket)
        except OSError as error:
            raise RefusedError(f"the job's name server does not answer: {error}") from error

    def undo(self) -> Undo:
        """What to clear, and what the name should mean."""
        about = {"host": self._link.src_host, "name": self._link.dst_name, "address": self._link.dst_address}
        return {"socket": self._socket, "id": self._id, **about}

    def apply(self) -> dict[str, Any]:
        """One line to the server."""
        assert self._line is not None
        lie = {"id": self._id, "client": self._client, "name": self._link.dst_name, "how": self._params.how}
        return {"answer": _say(self._line, lie)}

    def verify(self) -> Measurement:
        """Another process, on that host's network, asks the system's resolver."""
        found = self._ctx.ask("lookup", {"host": self._link.src_host, "name": self._link.dst_name})
        wrong = found["address"] != self._link.dst_address
        ok = found["outcome"] == EXPECTED[self._params.how] and wrong
        return Measurement(ok=ok, probe="the system's resolver", measured=found)

    @staticmethod
    def revert(undo: Undo) -> None:
        """Have it cleared; where nobody answers, the place and its server are gone."""
        with suppress(FileNotFoundError, ConnectionRefusedError):
            line = _connect(undo["socket"])
            _say(line, {"clear": undo["id"]})
            line.close()

    @staticmethod
    def gone(undo: Undo, ask: Ask) -> Measurement:
        """Another process gets the right address, or a wrong one for which another fault on that name answers."""
        if not Path(undo["socket"]).exists():
            return Measurement(ok=True, probe="the system's resolver", measured={"outcome": "no name server"})
        found = ask("lookup", {"host": undo["host"], "name": undo["name"]})
        if found["address"] == undo["address"]:
            return Measurement(ok=True, probe="the system's resolver", measured=found)
        with suppress(FileNotFoundError, ConnectionRefusedError), _connect(undo["socket"]) as line:
            others = _say(line, {"stands": undo["id"]}) == "no"
            probe = "the system's resolver, the name server's list"
            return Measurement(ok=others, probe=probe, measured={**found, "told_for_another": others})
        return Measurement(ok=True, probe="the system's resolver", measured={**found, "outcome": "no name server"})


def _connect(path: str) -> socket.socket:
    line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    line.settimeout(ANSWER_S)
    line.connect(path)
    return line


def _say(line: socket.socket, words: dict[str, str]) -> str:
    line.sendall(json.dumps(words).encode() + b"\n")
    return line.recv(64).decode().strip()
