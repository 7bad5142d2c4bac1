"""Who has which address in the cluster, and where the namespaces of a virtual host are found. Plain data, no netlink.

The bridge is 10.98.0.1, hosts are 10.98.0.10, .20, .30, ... in order, components 10.98.0.100 + i: an alias on the ``eth0`` of
their host, as a pod has an address of its own; so a link is told by its two addresses.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

PREFIX_BITS = 24
BRIDGE_ADDRESS = "10.98.0.1"
#: Where `ip netns` and pyroute2 look for named network namespaces; UTS namespaces lie beside them.
NETWORK_NAMESPACES = Path("/run/netns")
NAME_NAMESPACES = Path("/run/utsns")
#: Where the job's name server listens on the bridge, what components are called there, and an address that nobody has.
DNS_PORT = 53
DOMAIN = "cluster"
NOBODY = "10.98.0.99"
#: Hosts end below the first component's address, components below the broadcast address.
MAX_HOSTS = 9
MAX_COMPONENTS = 155


def host_addresses(hosts: Iterable[str]) -> dict[str, str]:
    """Host -> its own address, by position. Raises ValueError beyond MAX_HOSTS."""
    addresses = {host: f"10.98.0.{10 * (i + 1)}" for i, host in enumerate(hosts)}
    if len(addresses) > MAX_HOSTS:
        raise ValueError(f"at most {MAX_HOSTS} virtual hosts, not {len(addresses)}")
    return addresses


def component_addresses(components: Iterable[str]) -> dict[str, str]:
    """Component -> its alias address, by position. Raises ValueError beyond MAX_COMPONENTS."""
    addresses = {component: f"10.98.0.{100 + i}" for i, component in enumerate(components)}
    if len(addresses) > MAX_COMPONENTS:
        raise ValueError(f"at most {MAX_COMPONENTS} components, not {len(addresses)}")
    return addresses


def host_name(component: str) -> str:
    """What a component is called where there is a name server."""
    return f"{component}.{DOMAIN}"


def host_namespaces(host: str) -> list[str]:
    """The namespace files a process of ``host`` enters; none for "", the namespace that holds the bridge."""
    if not host:
        return []
    paths = [NETWORK_NAMESPACES / host, NAME_NAMESPACES / host]
    if "/" in host or not all(path.exists() for path in paths):
        raise ValueError(f"no virtual host {host!r}")
    return [str(path) for path in paths]
