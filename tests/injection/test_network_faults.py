from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from injection import procfs
from injection.place import open_place
from injection.proxies import start_proxies
from injection.proxy_client import ProxyClient
from injection.tcpcount import Requests
from storage.records import Link
from tests.injection.victim import Lab, Seam, plan_fault, register, wait_until

pytestmark = pytest.mark.job  # real processes, several seconds each

LINK = {"type": "link", "src": "train1", "dst": "metaserver", "purpose": "weights"}
NAME = "train1>metaserver:weights"


class Upload:
    """A dialler that sends requests of some size and waits for each answer; and the server that gives it."""

    def __init__(self, request_bytes: int) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._server.getsockname()[1]}"
        self._bytes, self._over = request_bytes, threading.Event()
        self.seconds: list[float] = []
        self.resets = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def dial(self, address: str) -> None:
        threading.Thread(target=self._work, args=(address,), daemon=True).start()

    def close(self) -> None:
        self._over.set()
        self._server.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(client,), daemon=True).start()

    def _answer(self, client: socket.socket) -> None:
        got = 0
        try:
            while piece := client.recv(65536):
                got += len(piece)
                if got >= self._bytes:
                    got -= self._bytes
                    client.sendall(b"!")
        except OSError:
            return

    def _work(self, address: str) -> None:
        host, port = address.split(":")
        while not self._over.is_set():
            try:
                with socket.create_connection((host, int(port)), timeout=60) as dialled:
                    while not self._over.wait(0.01):
                        began = time.monotonic()
                        dialled.sendall(b"x" * self._bytes)
                        if not dialled.recv(1):
                            raise ConnectionResetError
                        self.seconds.append(time.monotonic() - began)
            except OSError:
                self.resets += 1
                time.sleep(0.05)


@pytest.fixture
def upload() -> Iterator[Upload]:
    one = Upload(30_000)
    yield one
    one.close()


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "600"])
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize(
    ("kind", "params"),
    [
        ("network-bandwidth", {"rate_bytes_per_s": 20_000}),
        ("network-delay", {"delay_ms": 400, "jitter_ms": 50}),
        ("network-reset", {}),
    ],
)
def test_each_link_fault_through_the_proxy(
    scratch: Path, upload: Upload, sleeper: subprocess.Popen[bytes], kind: str, params: dict[str, Any]
) -> None:
    """Proxy: the link's requests suffer what was asked, another process confirms it, and they are free again at the end."""
    place = open_place("plain-host", {"train1": "localhost"})
    lab = Lab(scratch, [plan_fault(kind, params, target=LINK)])
    try:
        relays = start_proxies(place, [Link("train1", "metaserver", "weights", upload.address)], scratch / "relays.log")
        (scratch / "addresses.json").write_text(
            json.dumps({"host": {"metaserver": "localhost"}, "bind": {}, "listen": {}, "dial": relays.dial})
        )
        lab.spec["proxy_api"] = relays.api
        register(lab.registry, "train1", procfs.identity(sleeper.pid))
        lab.start()
        wait_until(lambda: bool(lab.history("armed")), "armed")
        upload.dial(relays.dial[NAME])
        wait_until(lambda: len(upload.seconds) > 5, "requests flow")
        assert max(upload.seconds) < 0.4 and upload.resets == 0
        seam = Seam(lab.seam)
        seam.reach("train", 3)
        verified = lab.wait_for("verified")
        assert verified["ok"], str(verified["receipt"]["measured"])
        assert upload.resets > 0 if kind == "network-reset" else upload.resets == 0
        assert lab.stop() == 0
        assert lab.history("gone")[0]["ok"]
        assert ProxyClient(relays.api, NAME).toxic_names() == []
        before = len(upload.seconds)
        wait_until(lambda: len(upload.seconds) > before + 5, "requests flow again")
        assert upload.seconds[-1] < 0.4
        seam.close()
    finally:
        lab.close()
        place.close()


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1)), min_size=1, max_size=30))
def test_a_request_is_never_taken_for_slower_than_it_is(moves: list[tuple[int, int]]) -> None:
    """Over any course of sending and answering: all bytes since the last answer count, no time before it does."""
    requests, acked, received, base, since = Requests(), 0, 0, 0, 0.0
    requests.seen(("a", 1, "b", 2), 0, 0, 0.0)
    for number, (more, answer) in enumerate(moves, start=1):
        if answer:
            base, since = acked, float(number)
        acked, received = acked + more, received + answer
        sent, waited_s = requests.seen(("a", 1, "b", 2), acked, received, float(number))
        assert sent == acked - base
        assert waited_s <= number - since
        assert waited_s == 0 or sent > 0 or more == 0


def test_a_connection_that_appears_counts_from_its_first_byte() -> None:
    """What a relay took in before the connection was seen belongs to its request; what was there at the first look does not."""
    requests = Requests()
    assert requests.seen(("a", 1, "b", 2), 500, 0, 0.0) == (0, 0.0)
    requests.looked_once = True
    assert requests.seen(("a", 3, "b", 2), 500, 0, 1.0) == (500, 0.0)
    assert requests.seen(("a", 3, "b", 2), 500, 0, 3.0) == (500, 2.0)


SENDER = """
import socket, sys, time
while True:
    try:
        with socket.create_connection((sys.argv[2], 8080), timeout=60, source_address=(sys.argv[1], 0)) as dialled:
            while True:
                dialled.sendall(b"x" * 16384)
                time.sleep(0.001)
    except OSError:
        time.sleep(0.05)
"""
SINK = """
import socket, sys, threading
def take(client):
    while client.recv(65536):
        pass
server = socket.create_server((sys.argv[1], 8080))
print("up", flush=True)
while True:
    threading.Thread(target=take, args=(server.accept()[0],), daemon=True).start()
"""
COMPONENTS = {"metaserver": "control", "train0": "trainers", "train1": "trainers", "rollout0": "rollouts"}


class Cluster:
    """A virtual cluster in which train0 and train1 send to the metaserver for all they are worth."""

    def __init__(self, folder: Path, *faults: dict[str, Any]) -> None:
        self.place = open_place("virtual-cluster", COMPONENTS)
        self.lab = Lab(folder, list(faults), place="virtual-cluster")
        address = self.place.component_address
        sink = address("metaserver")
        self._start("control", "sink", "-c", SINK, sink)
        wait_until(lambda: "up" in (folder / "sink.log").read_text(), "the sink listens")
        names: dict[str, Any] = {"host": {"metaserver": "control"}, "bind": {}, "listen": {}, "dial": {}}
        for name in ("train0", "train1"):
            names["bind"][name] = address(name)
            names["dial"][f"{name}>metaserver:weights"] = f"{sink}:8080"
            self.start_sender(name)
        self.tell_names(names)
        (folder / "spec.json").write_text(json.dumps(self.lab.spec))
        self.injector = self._start("", "injector", "-m", "injection.injector", str(folder / "spec.json"))
        self.await_armed(len(faults))

    def await_armed(self, times: int) -> None:
        wait_until(lambda: self.lab.history_path.exists() and len(self.lab.history("armed")) >= times, "armed", 60)

    def tell_names(self, names: dict[str, Any]) -> None:
        """The name table, whole or not at all."""
        self.names, fresh = names, self.lab.folder / "fresh.json"
        fresh.write_text(json.dumps(names))
        fresh.rename(self.lab.folder / "addresses.json")

    def start_sender(self, name: str) -> Any:
        """Start it, and have it registered."""
        address = self.place.component_address
        sender = self._start("trainers", name, "-c", SENDER, address(name), address("metaserver"))
        self._register(name, sender.pid)
        return sender

    def start_watchdog(self) -> Any:
        arguments = ["--journal", str(self.lab.journal), "--run", "r1", "--watch", str(self.injector.pid), "--lease", "1.0"]
        watchdog = self._start("", "watchdog", "-m", "injection.watchdog", *arguments)
        wait_until(lambda: "ready" in (self.lab.folder / "watchdog.log").read_text(), "the watchdog stands")
        return watchdog

    def ask(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """A measurement made by a fresh process inside the cluster."""
        code = "import json, sys, injection.measure as m; print(json.dumps(m.ask_here(sys.argv[1], json.loads(sys.argv[2]))))"
        log = self.lab.folder / "ask.log"
        log.unlink(missing_ok=True)
        process = self._start("", "ask", "-c", code, name, json.dumps(arguments))
        assert process.wait(60) == 0, log.read_text()
        found: dict[str, Any] = json.loads(log.read_text())
        return found

    def rate(self, component: str) -> float:
        address = self.place.component_address
        flow = {"host": "trainers", "src": address(component), "dst": address("metaserver"), "port": 8080}
        return float(self.ask("link_rate", {**flow, "wait_s": 5.0, "window_s": 1.0})["rate_bytes_per_s"])

    def queue(self) -> str:
        return str(self.ask("host_queue", {"host": "trainers"})["root_kind"])

    def _start(self, host: str, name: str, *arguments: str) -> Any:
        root = str(Path(__file__).resolve().parents[2])
        log = self.lab.folder / f"{name}.log"
        log.touch()
        return self.place.spawn([sys.executable, *arguments], host=host, log=log, env={"PYTHONPATH": root})

    def _register(self, component: str, pid: int) -> None:
        code = "import sys; from injection.procfs import identity; print(identity(int(sys.argv[1])).start_ticks)"
        log = self.lab.folder / "ticks.log"
        log.unlink(missing_ok=True)
        assert self._start("", "ticks", "-c", code, str(pid)).wait(60) == 0, log.read_text()
        register(self.lab.registry, component, procfs.Identity(pid, int(log.read_text())), "trainers")


RATE = 50_000.0


@pytest.fixture
def cluster(scratch: Path) -> Iterator[Cluster]:
    one = Cluster(scratch, plan_fault("network-bandwidth", {"rate_bytes_per_s": RATE}, target=LINK))
    yield one
    one.place.close()


def test_the_kernel_slows_one_link_and_no_other(cluster: Cluster) -> None:
    """Virtual cluster: no queue before and after; between, the link carries what was asked and its neighbour all it can."""
    assert cluster.queue() == "noqueue"
    assert min(cluster.rate("train0"), cluster.rate("train1")) > 10 * RATE
    seam = Seam(cluster.lab.seam)
    seam.reach("train", 3)
    verified = cluster.lab.wait_for("verified")
    assert verified["ok"] and verified["receipt"]["probe"] == "TCP counters of the link", verified
    assert 0.5 * RATE < cluster.rate("train1") <= 1.3 * RATE
    assert cluster.rate("train0") > 10 * RATE
    cluster.injector.signal(15)
    assert cluster.injector.wait(60) == 0
    assert cluster.lab.history("gone")[0]["ok"]
    assert cluster.queue() == "noqueue"
    wait_until(lambda: cluster.rate("train1") > 10 * RATE, "the link is free again", 60)
    seam.close()


def test_kill_9_of_the_injector_frees_the_link(cluster: Cluster) -> None:
    """Virtual cluster: the watchdog takes the queue away within lease + 5 s."""
    watchdog = cluster.start_watchdog()
    seam = Seam(cluster.lab.seam)
    seam.reach("train", 3)
    assert cluster.queue() == "htb"
    cluster.injector.signal(9)
    assert watchdog.wait(6) == 0
    assert cluster.queue() == "noqueue"
    seam.close()
