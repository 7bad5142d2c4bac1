from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dns.message
import dns.rcode
import pytest
from hypothesis import given
from hypothesis import strategies as st

from injection import procfs
from injection.fault import Context, RefusedError
from injection.faults.dns_failure import DnsFailure, Params
from injection.measure import ask_here
from injection.names import Lie, NameServer
from injection.place import Place, open_place
from injection.target import Site, resolve
from injection.virtual.addresses import BRIDGE_ADDRESS, DNS_PORT, NOBODY, host_name
from tests.injection.victim import register, wait_until

pytestmark = pytest.mark.job

COMPONENTS = {"train0": "trainers", "rollout0": "rollouts", "metaserver": "control", "controller": "control"}
DRIVER = """
import json, os, time
from injection import procfs
from injection.fault import Context
from injection.faults.dns_failure import DnsFailure, Params
from injection.measure import ask_here
from injection.target import LiveLink
link = LiveLink("train0>metaserver:weights", "trainers", "", "control", {address!r}, 8080, "metaserver.cluster")
def fault(how):
    one = DnsFailure(Context(link, "resolver", ask_here), Params(how))
    one.arm()
    return one
def tell(**figures):
    print(json.dumps(figures), flush=True)
"""


@dataclass
class Named:
    """A place with a name server, and a driver in the injector's seat."""

    place: Place
    scratch: Path

    def start(self, code: str, log: Path) -> object:
        address = self.place.component_address("metaserver")
        return self.place.spawn([sys.executable, "-c", DRIVER.format(address=address) + code], host="", log=log)

    def drive(self, code: str) -> list[dict]:
        log = self.scratch / "driver.log"
        log.unlink(missing_ok=True)
        assert self.start(code, log).wait(60.0) == 0, log.read_text()
        return [json.loads(line) for line in log.read_text().splitlines()]


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Named]:
    scratch = tmp_path_factory.mktemp("names")
    place = open_place("virtual-cluster", COMPONENTS, names=True)
    (scratch / "names.json").write_text(json.dumps({host_name(name): place.component_address(name) for name in COMPONENTS}))
    where = [str(place.scratch), f"{BRIDGE_ADDRESS}:{DNS_PORT}", str(scratch / "names.json")]
    server = place.spawn([sys.executable, "-m", "injection.names", *where], host="", log=scratch / "server.log")
    wait_until(lambda: "ready" in (scratch / "server.log").read_text() or server.poll() is not None, "it answers")
    yield Named(place, scratch)
    place.close()


@pytest.fixture
def sleeper() -> Iterator[procfs.Identity]:
    process = subprocess.Popen(["sleep", "600"])
    yield procfs.identity(process.pid)
    process.kill()
    process.wait()


@pytest.mark.parametrize("how", ["nxdomain", "servfail", "timeout", "wrong"])
def test_a_name_fails_on_its_host_and_nowhere_else(named: Named, how: str) -> None:
    """Each way: the dialler's host gets it, another host and another name do not; the probe says yes, and no afterwards."""
    before, during, elsewhere, other, after = named.drive(f"""
def look(host, name): tell(**ask_here("lookup", dict(host=host, name=name)))
one = fault({how!r})
undo = one.undo()
look("trainers", "metaserver.cluster")
one.apply()
found = one.verify()
tell(ok=found.ok, gone=DnsFailure.gone(undo, ask_here).ok, **found.measured)
look("rollouts", "metaserver.cluster")
look("trainers", "rollout0.cluster")
for _ in range(2): DnsFailure.revert(undo)
tell(ok=DnsFailure.gone(undo, ask_here).ok, again=one.verify().ok)
""")
    right = named.place.component_address("metaserver")
    assert before["address"] == elsewhere["address"] == right
    assert during["ok"] and not during["gone"] and after == {"ok": True, "again": False}
    assert other["address"] == named.place.component_address("rollout0")
    assert during["address"] == (NOBODY if how == "wrong" else "")
    assert (during["lookup_s"] >= 1.0) == (how == "timeout")


def test_a_name_resolves_again_when_the_injector_is_killed(named: Named) -> None:
    """What the server was told lasts as long as the connection, so kill -9 undoes it; of two the later counts."""
    log = named.scratch / "held.log"
    holder = named.start("one = fault('nxdomain'); one.undo(); one.apply(); tell(applied=True); time.sleep(600)", log)
    wait_until(lambda: log.exists() and "applied" in log.read_text(), "the first is in force")
    both, still, one_left = named.drive("""
def outcome(): return ask_here("lookup", dict(host="trainers", name="metaserver.cluster"))
two = fault("wrong"); undo = two.undo(); two.apply(); tell(**outcome())
tell(gone=DnsFailure.gone(undo, ask_here).ok)
DnsFailure.revert(undo); tell(**outcome(), gone=DnsFailure.gone(undo, ask_here).ok)
""")
    assert both["address"] == NOBODY and not still["gone"]
    assert one_left["outcome"] == "unknown" and one_left["gone"]
    holder.signal(9)
    look = "tell(**ask_here('lookup', dict(host='trainers', name='metaserver.cluster')))"
    wait_until(lambda: named.drive(look)[0]["address"] != "", "it resolves")


def test_links_dialled_by_address_are_refused(tmp_path: Path, sleeper: procfs.Identity) -> None:
    """Without names there is nothing that could fail, and the refusal says what is needed; with names a link knows both."""
    register(tmp_path, "train0", sleeper)
    site = Site(tmp_path, tmp_path / "addresses")
    address = {"host": {"metaserver": "control"}, "bind": {}, "listen": {"metaserver": {"weights": "10.98.0.111:8080"}}}
    for dial, name in (("10.98.0.111:8080", ""), ("metaserver.cluster:8080", "metaserver.cluster")):
        (tmp_path / "addresses").write_text(json.dumps({**address, "dial": {"train0>metaserver:weights": dial}}))
        link = resolve({"type": "link", "src": "train0", "dst": "metaserver", "purpose": "weights"}, site)
        assert (link.dst_name, link.dst_address, link.dst_port) == (name, "10.98.0.111", 8080)
        if not name:
            with pytest.raises(RefusedError, match="dialled by address"):
                DnsFailure(Context(link, "resolver", ask_here), Params("nxdomain")).arm()


@given(st.binary(max_size=64))
def test_garbage_is_answered_by_silence_or_by_dns(packet: bytes) -> None:
    """Whatever arrives, the server gives a well-formed answer or none."""
    reply = NameServer({"a.cluster": "10.98.0.100"}).answer(packet, "10.98.0.10")
    assert reply is None or dns.message.from_wire(reply)


def test_an_unknown_name_and_another_type_are_answered_as_a_server_does() -> None:
    """A name that is not in the table is NXDOMAIN; an IPv6 address of a known one is an empty answer, so resolvers go on."""
    server, held = NameServer({"a.cluster": "10.98.0.100"}), socket.socket()

    def asked(name: str, kind: str = "A", client: str = "10.98.0.10") -> dns.message.Message:
        return dns.message.from_wire(server.answer(dns.message.make_query(name, kind).to_wire(), client))

    assert asked("b.cluster").rcode() == dns.rcode.NXDOMAIN
    assert asked("a.cluster", "AAAA").rcode() == dns.rcode.NOERROR and not asked("a.cluster", "AAAA").answer
    assert asked("A.Cluster").answer[0][0].address == "10.98.0.100"
    server.lies[held] = Lie("1", "10.98.0.20", "a.cluster", "servfail")
    assert asked("a.cluster").rcode() == dns.rcode.NOERROR
    assert asked("a.cluster", client="10.98.0.20").rcode() == dns.rcode.SERVFAIL
    held.close()


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b"7", b'{"id": "1"}', b"\xff", b'{"id": "1", "what": 2}'])
def test_a_hand_that_makes_no_sense_is_hung_up_on(line: bytes) -> None:
    """Nonsense from whoever speaks to the server, or the end of the line, ends that line, and what it had said is forgotten."""
    server = NameServer({"a.cluster": "10.98.0.100"})
    near, far = socket.socketpair()
    far.sendall(b'{"id": "1", "client": "", "name": "a.cluster", "how": "nxdomain"}')
    assert server.hear(near) and len(server.lies) == 1
    if line:
        far.sendall(line)
    else:
        far.close()  # with the answer unread, as when it is killed
    assert not server.hear(near) and server.lies == {}
    near.close()
    far.close()
