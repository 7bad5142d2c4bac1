"""Ports that the scheduler gives out, in place of those that the name table came with: for a host shared with others.

A port that is free when it is chosen may be taken before its worker listens; the worker then ends with the system's own code
for that, and gets another.
"""

from __future__ import annotations

import errno
import json
import socket
from typing import Any

from rlhf.links import job_dir, name_table

#: The first port and the last one, and how often a worker whose port was taken gets another.
FIRST, LAST, TRIES = 38000, 38999, 3
#: Exit code of a worker that cannot listen because somebody else does.
PORT_TAKEN = errno.EADDRINUSE
AUTO: dict[str, Any] = {"type": "auto"}
STRATEGIES = ({"type": "fixed"}, AUTO)


def strategy_problem(strategy: Any, components: list[str]) -> str:
    """Why ports cannot be given as asked, by one of STRATEGIES; or nothing. None asks for fixed ones."""
    if strategy not in (None, *STRATEGIES):
        return f"no such portStrategy: {strategy!r}; there are {' and '.join(map(str, STRATEGIES))}"
    if strategy != AUTO:
        return ""
    table = name_table()
    relayed = [component for component in components if any(dialled != own for dialled, own in _dialled(table, component))]
    return f"portStrategy auto: reached through a relay, which knows one port: {', '.join(relayed)}" if relayed else ""


def give_port(component: str, above: int = FIRST - 1) -> int:
    """Enter a free port above a given one into the name table, for the component and all who dial it. Raises OSError."""
    table = name_table()
    address = table["bind"][component]
    others = {where for name, ports in table["listen"].items() if name != component for where in ports.values()}
    for port in range(above + 1, LAST + 1):
        where = f"{address}:{port}"
        if where not in others and is_free(address, port):
            _enter(table, component, where)
            return port
    raise OSError(errno.EADDRNOTAVAIL, f"no free port for {component} at {address} from {above + 1} to {LAST}")


def is_free(address: str, port: int) -> bool:
    """Whether a listener would be allowed there now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
            probe.listen(1)
        except OSError:
            return False
        return True


def _dialled(table: dict[str, Any], component: str) -> list[tuple[str, str]]:
    """Of each link to the component: what is dialled, and where the component listens."""
    listen = table["listen"].get(component, {})
    ends = [(link.partition(">")[2].partition(":"), where) for link, where in table["dial"].items()]
    return [(where, listen[purpose]) for (dst, _, purpose), where in ends if dst == component]


def _enter(table: dict[str, Any], component: str, where: str) -> None:
    """Write the table whole or not at all: others read it at any time."""
    table["listen"][component] = dict.fromkeys(table["listen"][component], where)
    for link in table["dial"]:
        if link.partition(">")[2].partition(":")[0] == component:
            table["dial"][link] = where
    part = job_dir() / ".addresses.part"
    part.write_text(json.dumps(table, indent=2) + "\n")
    part.replace(job_dir() / "addresses.json")
