"""The virtual cluster: hosts with addresses and names of their own, joined by a network, and no share in the machine's."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from injection.place import PlaceError
from injection.virtual.addresses import MAX_COMPONENTS, MAX_HOSTS, component_addresses, host_addresses
from injection.virtual.cluster import HOSTS, VirtualCluster

PATIENCE_S = 30.0
COMPONENTS = {"controller": "control", "train0": "trainers", "train1": "trainers", "rollout0": "rollouts"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[VirtualCluster]:
    cluster = VirtualCluster(COMPONENTS)
    yield cluster
    cluster.close()


def run(cluster: VirtualCluster, host: str, code: str, log: Path) -> str:
    process = cluster.spawn([sys.executable, "-c", code], host=host, log=log)
    code_out = process.wait(PATIENCE_S)
    assert code_out == 0, log.read_text()
    return log.read_text().strip()


SERVE = """
import socket
server = socket.create_server(("{address}", 7000))
print("ready", flush=True)
connection, peer = server.accept()
connection.sendall(peer[0].encode())
connection.close()
"""
DIAL = """
import socket, time
deadline = time.monotonic() + 20
while True:
    try:
        connection = socket.create_connection(("{address}", 7000), timeout=10, source_address=("{source}", 0))
        break
    except ConnectionRefusedError:
        assert time.monotonic() < deadline
        time.sleep(0.05)
seen = connection.recv(100).decode()
print(seen, connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).split(b"\\0")[0].decode())
"""


@pytest.mark.parametrize(("source", "target"), [("rollout0", "train1"), ("train1", "controller"), ("controller", "rollout0")])
def test_components_reach_each_other_by_their_own_addresses(
    cluster: VirtualCluster, scratch: Path, source: str, target: str
) -> None:
    """Each component listens and dials on its alias, and its peer sees that very address; all connections use cubic."""
    here, there = cluster.component_address(source), cluster.component_address(target)
    server = cluster.spawn([sys.executable, "-c", SERVE.format(address=there)], host=COMPONENTS[target], log=scratch / "s.log")
    seen = run(cluster, COMPONENTS[source], DIAL.format(address=there, source=here), scratch / "d.log")
    assert server.wait(PATIENCE_S) == 0
    assert seen == f"{here} cubic"


def test_each_host_has_its_name_interface_and_address(cluster: VirtualCluster, scratch: Path) -> None:
    """A process on a virtual host sees that host's name, lo and eth0 up, its addresses there, and the hosts by name."""
    code = (
        "import json, psutil, socket\n"
        "names = [socket.gethostbyname(h) for h in ('control', 'trainers', 'rollouts')]\n"
        "nics = {n: [a.address for a in l if a.family == socket.AF_INET] for n, l in psutil.net_if_addrs().items()}\n"
        "up = [n for n, s in psutil.net_if_stats().items() if s.isup]\n"
        "print(json.dumps([socket.gethostname(), nics, up, names]))"
    )
    for host in HOSTS:
        name, nics, up, names = json.loads(run(cluster, host, code, scratch / f"{host}.log"))
        own = [cluster.component_address(component) for component, on in COMPONENTS.items() if on == host]
        assert name == host
        assert nics["eth0"] == [cluster.host_address(host), *own]
        assert {"lo", "eth0"} <= set(up)
        assert names == [cluster.host_address(other) for other in HOSTS]


def test_namespaces_are_found_by_name_from_outside(cluster: VirtualCluster, scratch: Path) -> None:
    """A process beside the hosts (the injector's seat) reaches a host's devices by the host's name, through pyroute2."""
    code = (
        "from pyroute2 import NetNS\n"
        "with NetNS('trainers') as host:\n"
        "    eth0 = host.get_links(host.link_lookup(ifname='eth0')[0])[0]\n"
        "    host.tc('add', 'tbf', eth0['index'], 0x10000, rate=10000, burst=2000, latency='50ms')\n"
        "    print(eth0.get('gso_max_segs'), [q.get('kind') for q in host.get_qdiscs(index=eth0['index'])])\n"
        "    host.tc('del', index=eth0['index'], root=True)"
    )
    assert run(cluster, "", code, scratch / "a.log") == "1 ['tbf']"


def test_a_stranger_is_unreachable_at_once(cluster: VirtualCluster, scratch: Path) -> None:
    """A connection to an address outside the cluster fails with an error of the network and not by a time-out."""
    code = (
        "import socket, errno\n"
        "try: socket.create_connection(('192.0.2.1', 80), timeout=20)\n"
        "except TimeoutError: print('timeout')\n"
        "except OSError as e: print(errno.errorcode[e.errno])"
    )
    assert run(cluster, "rollouts", code, scratch / "a.log") in ("ENETUNREACH", "EHOSTUNREACH")


def test_processes_of_the_cluster_see_only_the_cluster(cluster: VirtualCluster, scratch: Path) -> None:
    """The process table inside begins with the cluster's own PID 1 and holds no process of this machine."""
    text = run(
        cluster,
        "control",
        "import psutil, json; print(json.dumps([p.cmdline() for p in psutil.process_iter()]))",
        scratch / "a",
    )
    table = json.loads(text)
    assert Path(table[0][1]).parent == cluster.scratch and len(table[0]) == 2
    assert len(table) < 5


def test_shared_memory_is_the_clusters_own(cluster: VirtualCluster, scratch: Path) -> None:
    """What processes of the cluster leave in /dev/shm is seen by all its hosts and by nobody outside."""
    name = f"left-{scratch.name}"
    run(cluster, "trainers", f"open('/dev/shm/{name}', 'w')", scratch / "a.log")
    assert run(cluster, "rollouts", f"import os; print(os.listdir('/dev/shm') == ['{name}'])", scratch / "b.log") == "True"
    assert not Path("/dev/shm", name).exists()


def test_init_refuses_to_be_an_ordinary_process(scratch: Path) -> None:
    """Started outside a PID namespace it changes nothing and says what it is."""
    mounts = Path("/proc/self/mounts").read_text()
    argv = [sys.executable, "-m", "injection.virtual.init", str(scratch), "{}"]
    tried = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert tried.returncode != 0
    assert "first process" in tried.stderr
    assert Path("/proc/self/mounts").read_text() == mounts


STAND = """
import sys
from pathlib import Path
from injection.virtual.cluster import HOSTS, VirtualCluster
cluster = VirtualCluster({"train0": "trainers", "controller": "control"})
for host in HOSTS:
    process = cluster.spawn(["sh", "-c", "hostname; id -u"], host=host, log=Path(host).absolute())
    assert process.wait(30) == 0
    print(Path(host).read_text().split())
cluster.close()
"""


def test_an_ordinary_user_has_three_hosts(ordinary_user: Callable) -> None:
    """Without any privilege the same three hosts stand, processes run in each as that user's own root, and it ends clean."""
    process = ordinary_user([sys.executable, "-c", STAND])
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert out.splitlines() == [str([host, "0"]) for host in HOSTS]


REFUSED = """
from injection.place import open_place
try:
    open_place("virtual-cluster", {})
except Exception as error:
    print(type(error).__name__, error)
"""


def test_refused_namespaces_are_one_clear_sentence(ordinary_user: Callable) -> None:
    """Where the kernel refuses namespaces, opening a cluster raises PlaceError and says which call was refused."""
    limit = 'echo 0 > /proc/sys/user/max_net_namespaces; exec "$0" -c "$1"'
    process = ordinary_user(["unshare", "--user", "--map-root-user", "sh", "-c", limit, sys.executable, REFUSED])
    out, err = process.communicate(timeout=60)
    assert out.startswith("PlaceError"), err
    assert "unshare" in out
    assert len(out.splitlines()) == 1


def test_unknown_hosts_are_refused_before_anything_starts() -> None:
    """A component on a host that does not exist is refused by that host's name."""
    with pytest.raises(PlaceError, match="mars"):
        VirtualCluster({"train0": "mars"})


names = st.lists(st.text("abcdefghij", min_size=1, max_size=6), unique=True)


@given(hosts=names.filter(lambda names: len(names) <= MAX_HOSTS), components=names)
def test_addresses_are_never_shared(hosts: list[str], components: list[str]) -> None:
    """Hosts, components and the bridge all have addresses of their own within the subnet."""
    every = [*host_addresses(hosts).values(), *component_addresses(components).values(), "10.98.0.1", "10.98.0.255"]
    assert len(set(every)) == len(every)
    assert all(0 < int(address.rsplit(".", 1)[1]) <= 255 for address in every)


def test_too_many_are_refused() -> None:
    """Beyond what the subnet holds there is an error and no wrapped-around address."""
    with pytest.raises(ValueError, match=str(MAX_HOSTS)):
        host_addresses([f"h{i}" for i in range(MAX_HOSTS + 1)])
    with pytest.raises(ValueError, match=str(MAX_COMPONENTS)):
        component_addresses([f"c{i}" for i in range(MAX_COMPONENTS + 1)])
