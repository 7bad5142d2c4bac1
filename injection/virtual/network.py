"""The cluster's network: one bridge, and per virtual host a network and a UTS namespace with an ``eth0`` of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pyroute2 import IPRoute, NetlinkError

from injection import kernel
from injection.virtual.addresses import BRIDGE_ADDRESS, NAME_NAMESPACES, NETWORK_NAMESPACES, PREFIX_BITS

BRIDGE = "br0"
SUBNET = "10.98.0.0/24"
#: Of the route the kernel makes for an address (rtnetlink(7): RT_SCOPE_LINK, RTPROT_KERNEL).
SCOPE_LINK = 253
PROTOCOL_KERNEL = 2
#: One segment per packet: the default, 64 KiB "super-packets", would pass a shaper of some kB/s in lumps of seconds.
SEGMENTS_PER_PACKET = 1


def build_network(addresses: dict[str, list[str]]) -> None:
    """Make bridge and hosts; ``addresses`` is host -> its address and then its components' ones. Raises OSError, NetlinkError.

    The caller ends up in the namespaces it came with; it must be allowed to administer them.
    """
    NETWORK_NAMESPACES.mkdir()
    NAME_NAMESPACES.mkdir()
    # The default route ends here. Forwarding makes the answer to a stranger's address "unreachable" at once, not silence.
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    with IPRoute() as outer:
        _raise_loopback(outer)
        outer.link("add", ifname=BRIDGE, kind="bridge", state="up")
        bridge = outer.link_lookup(ifname=BRIDGE)[0]
        outer.addr("add", index=bridge, address=BRIDGE_ADDRESS, prefixlen=PREFIX_BITS)
        for host, own in addresses.items():
            _add_host(outer, bridge, host, own)


def _add_host(outer: IPRoute, bridge: int, host: str, addresses: list[str]) -> None:
    with _new_host_namespaces(host) as network_namespace, IPRoute() as inner:  # a netlink socket stays where it was made
        _raise_loopback(inner)
        peer = {"ifname": "eth0", "net_ns_fd": network_namespace, "gso_max_segs": SEGMENTS_PER_PACKET}
        outside = f"veth-{host}"[:15]  # the kernel's limit on names
        outer.link("add", ifname=outside, kind="veth", gso_max_segs=SEGMENTS_PER_PACKET, peer=peer)
        eth0 = inner.link_lookup(ifname="eth0")[0]
        inner.link("set", index=eth0, state="up")
        # Last: a bridge port that finds its carrier forwards at once; else after the kernel's next look, a second later.
        outer.link("set", index=outer.link_lookup(ifname=outside)[0], master=bridge, state="up")
        for address in addresses:
            inner.addr("add", index=eth0, address=address, prefixlen=PREFIX_BITS)
        _use_cubic(inner, eth0, addresses[0])
        inner.route("add", dst="default", gateway=BRIDGE_ADDRESS)


def _use_cubic(inner: IPRoute, eth0: int, own: str) -> None:
    """Have connections within the cluster use cubic, whatever this machine's default (bbr paces by its own model of a link).

    By the route, because a user namespace may not change the default. Where the kernel lacks cubic its default stays.
    """
    with suppress(NetlinkError):
        subnet = {"dst": SUBNET, "oif": eth0, "prefsrc": own, "scope": SCOPE_LINK, "proto": PROTOCOL_KERNEL}
        inner.route("replace", **subnet, metrics={"cc_algo": "cubic"})


def _raise_loopback(netlink: IPRoute) -> None:
    netlink.link("set", index=netlink.link_lookup(ifname="lo")[0], state="up")


@contextmanager
def _new_host_namespaces(host: str) -> Iterator[int]:
    """Enter new network and UTS namespaces, keep them by name, yield the network one's descriptor, and come back."""
    back = [os.open(f"/proc/self/ns/{kind}", os.O_RDONLY) for kind in ("net", "uts")]
    kernel.unshare(kernel.CLONE_NEWNET | kernel.CLONE_NEWUTS)
    try:
        kernel.set_host_name(host)
        for kind, folder in (("net", NETWORK_NAMESPACES), ("uts", NAME_NAMESPACES)):
            (folder / host).touch()
            kernel.mount(f"/proc/self/ns/{kind}", str(folder / host), "none", kernel.MS_BIND)
        own = os.open("/proc/self/ns/net", os.O_RDONLY)
        yield own
        os.close(own)
    finally:
        for descriptor in back:
            kernel.setns(descriptor)
            os.close(descriptor)
