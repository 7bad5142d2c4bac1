"""What is known about the job from its own registration files and name table: components, hosts, links, addresses, pids.

These are the identifiers the sanitiser may rewrite; anything else that looks like one is unknown, and its line is dropped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage.records import Registration, Role

#: A beat is nobody's wait: who sends it works on without an answer.
BEAT = "beat"
_NAME = re.compile(r"^([a-z]+)(\d*)$")
_LINK = re.compile(r"^(?P<src>\w+)>(?P<dst>\w+):(?P<purpose>\w+)$")


@dataclass(frozen=True)
class Topology:
    """The job in its own names. ``endpoints`` maps ``ip:port`` to (component, port name), ``addresses`` ip to component.

    ``host_addresses`` maps an ip to the host whose own it is, where hosts have addresses besides their components'.
    """

    roles: dict[str, str]
    hosts: dict[str, str]
    links: tuple[tuple[str, str, str], ...]
    endpoints: dict[str, tuple[str, str]]
    addresses: dict[str, str]
    pids: dict[int, str]
    host_addresses: dict[str, str]

    @property
    def components(self) -> tuple[str, ...]:
        """All components, sorted by the job's own names."""
        return tuple(sorted(self.roles))


def read_topology(registry: Path, name_table: Path, host_addresses: Mapping[str, str] | None = None) -> Topology:
    """The topology on disk; ``host_addresses`` (host -> ip) is the place's knowledge, the job need not write it down.

    Raises FileNotFoundError without a name table, ValueError for names that are no component.
    """
    table = json.loads(name_table.read_text())
    registrations = list(_registrations(registry))
    links = tuple(sorted(_links(table)))
    named = {*table.get("bind", {}), *table.get("listen", {}), *(r.component for r in registrations)}
    named |= {end for src, dst, _ in links for end in (src, dst)}
    return Topology(
        roles={name: _role(name) for name in sorted(named)},
        hosts={**table.get("host", {}), **{r.component: r.host for r in registrations}},
        links=links,
        endpoints=_endpoints(table, registrations),
        addresses=_addresses(table, registrations),
        pids={r.pid: r.component for r in registrations},
        host_addresses={ip: host for host, ip in (host_addresses or {}).items()},
    )


def waits(roles: dict[str, str], links: Iterable[tuple[str, str, str]]) -> list[tuple[str, str]]:
    """Who waits for whom, as (waiter, awaited): every caller for whom it calls, beats apart, and two that follow from that.

    A rollout worker waits at the metaserver for the shard of every train worker, and train workers wait for one another
    whenever they average gradients.
    """
    pairs = {(src, dst) for src, dst, purpose in links if purpose != BEAT}
    train = [name for name, role in roles.items() if role == Role.TRAIN]
    rollout = [name for name, role in roles.items() if role == Role.ROLLOUT]
    pairs |= {(waiter, awaited) for waiter in rollout for awaited in train}
    pairs |= {(waiter, awaited) for waiter in train for awaited in train if waiter != awaited}
    return sorted(pairs)


def _registrations(registry: Path) -> Iterator[Registration]:
    for path in sorted(registry.glob("*.json")):
        yield Registration(**json.loads(path.read_text()))


def _links(table: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    for name in table.get("dial", {}):
        match = _LINK.match(name)
        if match is None:
            raise ValueError(f"{name!r} in the name table is not src>dst:purpose")
        yield match["src"], match["dst"], match["purpose"]


def _role(component: str) -> str:
    match = _NAME.match(component)
    if match is None or match[1] not in tuple(Role):
        raise ValueError(f"{component!r} is not a component: roles are {', '.join(Role)}")
    return match[1]


def _endpoints(table: dict[str, Any], registrations: list[Registration]) -> dict[str, tuple[str, str]]:
    """Dialled addresses first, so that an address which is listened on keeps the listener's own port name."""
    found: dict[str, tuple[str, str]] = {}
    for (_, dst, purpose), address in zip(_links(table), table.get("dial", {}).values(), strict=True):
        found.setdefault(address, (dst, purpose))
    for registration in registrations:
        for purpose, port in registration.ports.items():
            found[f"{_ip(registration.address)}:{port}"] = (registration.component, purpose)
    for component, ports in table.get("listen", {}).items():
        for purpose, address in reversed(ports.items()):
            found[address] = (component, purpose)
    return found


def _addresses(table: dict[str, Any], registrations: list[Registration]) -> dict[str, str]:
    owners: dict[str, set[str]] = {}
    pairs = [(_ip(address), component) for component, address in table.get("bind", {}).items()]
    pairs += [(_ip(r.address), r.component) for r in registrations]
    pairs += [(_ip(a), component) for component, ports in table.get("listen", {}).items() for a in ports.values()]
    for ip, component in pairs:
        owners.setdefault(ip, set()).add(component)
    return {ip: min(components) for ip, components in owners.items() if len(components) == 1}


def _ip(address: str) -> str:
    return address.rpartition(":")[0] or address
