"""Where the conformance suite runs: two hosts made by root on this machine, two of the virtual cluster, or a proxy's two ends.

As a program it is the first of these, from making the hosts to removing them: `python -m tests.injection.grounds`.
"""

from __future__ import annotations

import json
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pyroute2 import IPRoute, netns

from injection import namespace
from injection.capability import PLAIN_HOST, VIRTUAL_CLUSTER
from injection.place import Place
from injection.proxies import start_proxies
from storage.records import Link
from tests.injection.ends import Server

PORTS = {"weights": 8080, "rpc": 7001}


def ground(place: str, ends: dict[str, Any], ports: dict[str, int], proxy_api: str = "", *, brief: bool = False) -> str:
    """GROUND of `conformance.py`: two links between the same ends, by purpose."""
    links = {
        one: {"name": f"train1>metaserver:{purpose}", **ends, "dst_port": ports[purpose]}
        for one, purpose in (("link", "weights"), ("bystander", "rpc"))
    }
    return json.dumps({"place": place, "proxy_api": proxy_api, "brief": brief, **links})


def of_cluster(place: Place) -> str:
    """Between two virtual hosts."""
    near, far = place.component_address("train1"), place.component_address("metaserver")
    ends = {"src_host": "trainers", "src_address": near, "dst_host": "control", "dst_address": far}
    return ground(VIRTUAL_CLUSTER, ends, PORTS)


def of_proxy(place: Place, log: Any) -> str:
    """Two links relayed to one echo server each, which run in this process."""
    upstream = {purpose: Server("", "127.0.0.1", 0).port for purpose in PORTS}
    links = [Link("train1", "metaserver", purpose, f"127.0.0.1:{port}") for purpose, port in upstream.items()]
    relays = start_proxies(place, links, log)
    ends = {"src_host": "", "src_address": "127.0.0.1", "dst_host": "", "dst_address": "127.0.0.1"}
    ports = {link.purpose: int(relays.dial[link.name].rsplit(":", 1)[1]) for link in links}
    return ground(PLAIN_HOST, ends, ports, relays.api)


@contextmanager
def two_hosts() -> Iterator[str]:
    """As root: two networks of this machine's own, joined by a cable."""
    near, far = hosts = [f"t{secrets.token_hex(3)}-{side}" for side in ("near", "far")]
    for host in hosts:
        netns.create(host)
    try:
        with IPRoute() as route:
            peer = {"ifname": "eth0", "net_ns_fd": far, "gso_max_segs": 1}
            cable = f"c{secrets.token_hex(3)}"
            route.link("add", ifname=cable, kind="veth", gso_max_segs=1, peer=peer)
            route.link("set", index=route.link_lookup(ifname=cable)[0], net_ns_fd=near)
        namespace.within(near, lambda: _raise(cable, "10.99.0.1"))
        namespace.within(far, lambda: _raise("eth0", "10.99.0.2"))
        ends = {"src_host": near, "src_address": "10.99.0.1", "dst_host": far, "dst_address": "10.99.0.2"}
        yield ground(VIRTUAL_CLUSTER, ends, PORTS, brief=True)
    finally:
        for host in hosts:
            netns.remove(host)


def _raise(name: str, address: str) -> None:
    with IPRoute() as route:
        index = route.link_lookup(ifname=name)[0]
        route.link("set", index=index, ifname="eth0")
        route.addr("add", index=index, address=address, prefixlen=24)
        for one in (index, socket.if_nametoindex("lo")):
            route.link("set", index=one, state="up")


def main() -> int:
    with two_hosts() as made:
        return subprocess.run([sys.executable, "-m", "tests.injection.conformance", made], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
