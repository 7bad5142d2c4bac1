"""The injector's end of the process that owns a link's packet rules (`packets.py`): start it ahead, say go, end it."""

from __future__ import annotations

import json
import os
import secrets
import select
import signal
from dataclasses import asdict
from pathlib import Path
from typing import Any

from injection import child, procfs
from injection.child import Child
from injection.fault import Ask, Context, Measurement, RefusedError, Undo
from injection.netfilter import Flow
from injection.procfs import Identity
from injection.target import LiveLink

CODE = Path(__file__).resolve().parent.parent
#: How long it may take to let go what it holds when it is told to end.
ENDING_S = 1.0


class Packets:
    """The process, ready but without effect until `go`. Raises RefusedError with the kernel's own reason."""

    def __init__(self, ctx: Context, direction: str, act: str, fate: dict[str, Any] | None = None, interface: str = "") -> None:
        link, self._ctx = ctx.link(), ctx
        self._table = f"filter-{secrets.token_hex(4)}"
        self._ends = _ends(link, direction, {"act": act, "fate": fate or {}, "interface": interface})
        self._child = Child("packets")
        self._tell({"code": str(CODE), "table": self._table, "ends": self._ends})

    def undo(self) -> Undo:
        """Whom to end, and what must then be gone."""
        hosts = [end["host"] for end in self._ends]
        return {"means": "packets", "process": self._child.key, "table": self._table, "hosts": hosts}

    def go(self) -> dict[str, Any]:
        """Put the rules up, behind those that stand on this link already. Returns the process's own account."""
        return {"table": self._table, **self._tell(self._ctx.company.place(self._ctx.name))}

    def _tell(self, what: Any) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self._child.tell(json.dumps(what)))
        if "error" in answer:
            child.end(self._child.key)
            raise RefusedError(str(answer["error"]))
        return answer


def _ends(link: LiveLink, direction: str, rule: dict[str, Any]) -> list[dict[str, Any]]:
    """What to do on which host. Packets are met where they arrive: at their sender it would be hindered, or told."""
    there = Flow(link.src_address, link.dst_address, link.dst_port)
    arrivals = {"forward": (link.dst_host, there), "backward": (link.src_host, there.backwards())}
    hosts: dict[str, list[dict[str, Any]]] = {}
    for way in arrivals if direction == "both" else (direction,):
        host, flow = arrivals[way]
        hosts.setdefault(host, []).append({**rule, "flow": asdict(flow)})
    return [{"host": host, "rules": rules} for host, rules in hosts.items()]


def end_packets(undo: Undo) -> None:
    """End the process of an undo record, and with it its rules; nothing to do where it is gone. Raises StuckError.

    It is asked first, for then it lets go what it holds.
    """
    try:
        pidfd = procfs.open_pidfd(Identity(*undo["process"]))
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGTERM)
        select.select([pidfd], [], [], ENDING_S)
    finally:
        os.close(pidfd)
    child.end(undo["process"])


def packets_gone(undo: Undo, ask: Ask) -> Measurement:
    """Another process finds neither the process nor a table of that name in any network concerned."""
    found = ask("packet_rules", {"process": undo["process"], "table": undo["table"], "hosts": undo["hosts"]})
    left = found["process_alive"] or found["tables_count"]
    return Measurement(ok=not left, probe="process table, tables of the network", measured=found)
