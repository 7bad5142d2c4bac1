"""Faults on a plain host through its agent: files, disks, memory, packets between its networks, links that a proxy relays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from injection import procfs
from injection.agent.client import AgentError
from injection.capability import VIRTUAL_CLUSTER
from injection.disk import free_bytes
from injection.fault import Measurement
from injection.place import open_place
from injection.preflight import absent_backends
from tests.injection.agents import RunningAgent, fault, proved
from tests.injection.conformance import EFFECT, PARAMETERS, Suite, cases, name
from tests.injection.grounds import of_proxy, two_hosts
from tests.injection.victim import wait_until

pytestmark = [pytest.mark.job, pytest.mark.root]

SIZE_MIB = 32
CONTENT = bytes(range(1, 200))
DIALLER = ("--allow-program", "sleep")


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """Whoever a target needs: it dials nothing and has no file, and may be hit."""
    process = subprocess.Popen(["sleep", "600"])
    yield process
    process.kill()
    process.wait()


@contextmanager
def mounted(folder: Path, mib: int) -> Iterator[Path]:
    """A small file system of our own."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def _fill(path: Path) -> None:
    with path.open("wb") as filler, suppress(OSError):
        while True:
            os.write(filler.fileno(), bytes(4096))


class Asked:
    """A fault that an agent is asked for, with the manners of one at hand: so the conformance suite's body can try it."""

    def __init__(self, agent: RunningAgent, what: dict[str, Any]) -> None:
        self._agent, self._what, self._name = agent, what, ""

    def undo(self) -> dict[str, Any]:
        return {}

    def apply(self) -> None:
        self._name = self._agent.run(self._what, lease_s=60.0)["experiment"]

    def verify(self) -> Measurement:
        return self._receipt(proved(self._agent.client, self._name), "verified")

    def revert(self, _: dict[str, Any]) -> None:
        self._agent.client.cancel(self._name)

    def gone(self, _: dict[str, Any], __: Any) -> Measurement:
        return self._receipt(self._agent.client.status(self._name), "gone")

    def _receipt(self, status: dict[str, Any], about: str) -> Measurement:
        told = status["faults"][0][about]
        return Measurement(told["ok"], told["probe"], told["measured"])


class AgentSuite(Suite):
    """The conformance suite's body, every fault of it asked of an agent."""

    def __init__(self, ground: dict[str, Any], agent: RunningAgent, pid: int) -> None:
        super().__init__(ground)
        self.agent, self._pid = agent, pid

    def fault(self, kind: str, backend: str, params: dict[str, Any]) -> Any:
        link = self.link
        ends = {"src": link.src_address, "dst": f"{link.dst_address}:{link.dst_port}"}
        networks = {"src_network": link.src_host, "dst_network": link.dst_host}
        where = {"proxy": link.name} if backend == "proxy" else ends | networks
        return Asked(self.agent, fault(kind, self._pid, params, target={"link": where}))

    def residue(self) -> dict[str, Any]:
        """As ever, with what is left of experiments instead of helpers of our own: the agent may close one still."""
        wait_until(lambda: len(self.agent.family()) == 1, "all processes of experiments have ended")
        return super().residue() | {"helpers": [], "journal": list((self.agent.state / "journal").iterdir())}

    def survives_the_agent(self, kind: str, backend: str, params: dict[str, Any]) -> None:
        """Killed in the middle of it: the link is free again, without anybody's doing."""
        before = self.residue()
        self.fault(kind, backend, params).apply()
        EFFECT[kind](self.caller, params)
        killed = self.agent
        killed.process.kill()
        killed.close()
        wait_until(lambda: not _experiments(killed), "the watchdog has ended")
        self.caller.is_free()
        self.agent = RunningAgent(killed.folder, *killed.options)
        assert self.residue() == before


def _experiments(agent: RunningAgent) -> list[str]:
    """Command lines of watchdogs that watch over this agent's journal."""
    found = subprocess.run(["pgrep", "-f", f"injection.watchdog --journal {agent.state}"], capture_output=True, text=True)
    return found.stdout.split()


def test_faults_of_a_plain_host_at_once(scratch: Path, sleeper: subprocess.Popen[bytes]) -> None:
    """Packets held between two networks, a full disk, a damaged file, a memory group, in one experiment: proved, and undone."""
    with two_hosts() as made, mounted(scratch / "disk", SIZE_MIB) as disk:
        ground = json.loads(made)
        (scratch / "free").mkdir()
        file = scratch / "free" / "model.pt"
        file.write_bytes(CONTENT)
        folders = [word for folder in (disk, file.parent) for word in ("--allow-folder", str(folder))]
        agent = RunningAgent(scratch, *DIALLER, *folders, "--reserve-disk-mib", "1")
        try:
            suite = AgentSuite(ground, agent, sleeper.pid)
            late = suite.fault("network-delay", "nfqueue", {"delay_ms": 40.0})._what
            full = fault("disk-fill", sleeper.pid, {"percent": 90.0}, target={"path": str(disk)})
            torn = fault("file-corruption", sleeper.pid, {"how": "truncate"}, target={"path": str(file)})
            held = fault("memory-pressure", sleeper.pid, {"where": "group", "headroom_mib": 64.0, "ballast_mib": 8.0})
            begun = agent.run(late, full, torn, held, lease_s=60.0)
            EFFECT["network-delay"](suite.caller, {"delay_ms": 40.0})
            assert free_bytes(disk)[1] < SIZE_MIB * 0.11 * (1 << 20) and file.read_bytes() != CONTENT
            status = proved(agent.client, begun["experiment"])
            assert [(one["kind"], one["verified"]["ok"]) for one in status["faults"]] == [
                (kind, True) for kind in ("network-delay", "disk-fill", "file-corruption", "memory-pressure")
            ]
            last = agent.client.cancel(begun["experiment"])
            assert all(one["gone"]["ok"] for one in last["faults"])
            suite.caller.is_free()
            assert free_bytes(disk)[1] > SIZE_MIB * 0.9 * (1 << 20) and file.read_bytes() == CONTENT
            with pytest.raises(Exception, match="would have 0 MiB left: the reserve is 1 MiB"):
                agent.run(fault("disk-fill", sleeper.pid, {"percent": 100.0}, target={"path": str(disk)}))
        finally:
            agent.close()


@pytest.mark.long
def test_a_full_disk_begins_nothing_and_undoes_all_the_same(scratch: Path, sleeper: subprocess.Popen[bytes]) -> None:
    """Audit log and journal on a disk that fills up: what is in force is undone when asked, and nothing new is begun."""
    with mounted(scratch / "state", 4) as disk:
        agent = RunningAgent(scratch, *DIALLER)
        try:
            begun = agent.run(fault("process-pause", sleeper.pid), lease_s=60.0)["experiment"]
            _fill(disk / "filler")
            with pytest.raises(Exception, match="No space left on device"):
                agent.run(fault("process-kill", sleeper.pid))
            with suppress(AgentError):  # undone; that it was asked for may find room in the log, or not
                agent.client.cancel(begun)
            wait_until(lambda: procfs.read_stat(sleeper.pid).state != "T", "it goes on")
            assert sleeper.poll() is None
            (disk / "filler").unlink()
            assert agent.client.status(begun)["stuck"] == ""
            assert agent.run(fault("process-pause", sleeper.pid), lease_s=60.0)["state"] == "in force"
        finally:
            agent.close()


@pytest.mark.long
@pytest.mark.timeout(600)
def test_every_fault_of_links_keeps_its_promises_through_an_agent(scratch: Path, sleeper: subprocess.Popen[bytes]) -> None:
    """The conformance suite's body on two networks of the machine, each kind asked of an agent, which is killed amid it."""
    absent = absent_backends()
    with two_hosts() as made:
        suite = AgentSuite(json.loads(made), RunningAgent(scratch, *DIALLER), sleeper.pid)
        try:
            for kind, backend, params in cases(VIRTUAL_CLUSTER):
                if backend not in absent and not (backend == "nfqueue" and "netem" not in absent):
                    print(name(kind, backend, params), file=sys.stderr)
                    suite.keeps_its_promises(kind, backend, params)
                    if params == PARAMETERS[kind][0]:
                        suite.survives_the_agent(kind, backend, params)
        finally:
            suite.agent.close()


@pytest.mark.long
@pytest.mark.timeout(600)
def test_every_fault_of_relayed_links_keeps_its_promises_through_an_agent(
    scratch: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    """The same by a proxy that the agent was told of."""
    place = open_place("plain-host", {"train1": "localhost", "metaserver": "localhost"})
    try:
        ground = json.loads(of_proxy(place, scratch / "relays.log"))
        agent = RunningAgent(scratch, *DIALLER, "--proxy-api", ground["proxy_api"])
        suite = AgentSuite(ground, agent, sleeper.pid)
        try:
            for kind, backend, params in cases(suite.place):
                suite.keeps_its_promises(kind, backend, params)
        finally:
            suite.agent.close()
    finally:
        place.close()
