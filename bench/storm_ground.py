"""What stands in a place during a kill storm instead of a job: processes, links in use, files; and eyes that see what is left.

    python -m bench.storm_ground RUN_FOLDER SCRATCH PROXY_API|-

Requests are JSON lines on the unix socket SCRATCH/ground: `fresh` brings everything back to how it was, `reach` announces a
point at the seam, `look` tells all that faults could have left inside, `gone` asks each kind about records of the journal.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.nftables.main import NFTables

from bench.storm_faults import DISK, FILE, LASTING, LINKS, MORTAL
from injection import namespace, procfs
from injection.disk import free_bytes
from injection.measure import ask_here
from injection.proxy_client import ProxyClient
from injection.registry import FAULTS
from injection.target import LiveLink, Site, resolve
from storage.records import FaultKind, Registration
from tests.injection.ends import Caller, Server, request

CONTENT = bytes(range(1, 200))
ARENA_BYTES = 2 << 20
STAND_INS = (MORTAL, *LASTING, "metaserver")
SLEEPER = "import sys; sys.stdin.read()"
DIAL_S, USE_EVERY_S, SEAM_S = 3.0, 0.05, 10.0


class Ground:
    """The stand-ins of one place."""

    def __init__(self, run: Path, proxy_api: str) -> None:
        self.job, self._proxy_api = run / "job", proxy_api
        self._site = Site(self.job / "registry", self.job / "addresses.json")
        self._table = self._site.names()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        host, at = self._host("metaserver"), self._table["listen"]["metaserver"]["weights"]
        address, port = at.rsplit(":", 1)
        Server(host if self._is_virtual else "", address, int(port))
        (self.job / "config.json").write_text(json.dumps({"device": "cpu", "colocated": True, "arena_path": ""}))
        (self.job / "arena").mkdir(exist_ok=True)
        self.fresh()
        self.links = [self._link(*ends) for ends in LINKS]
        for link in self.links:
            threading.Thread(target=_use, args=(link,), daemon=True).start()

    @property
    def _is_virtual(self) -> bool:
        return not self._proxy_api

    def _host(self, component: str) -> str:
        return str(self._table["host"][component])

    def _link(self, src: str, dst: str, purpose: str) -> LiveLink:
        link = resolve({"type": "link", "src": src, "dst": dst, "purpose": purpose}, self._site)
        assert isinstance(link, LiveLink)
        return link if self._is_virtual else LiveLink(**{**asdict(link), "src_host": "", "dst_host": ""})

    def fresh(self) -> dict[str, Any]:
        """Everyone lives and is registered, files are whole."""
        self._site.registry.mkdir(exist_ok=True)
        (self.job / DISK).mkdir(exist_ok=True)
        (self.job / FILE).write_bytes(CONTENT)
        for rank in range(2):
            (self.job / "arena" / f"node{rank}").write_bytes(bytes(ARENA_BYTES))
        for name in STAND_INS:
            if name not in self._processes or self._processes[name].poll() is not None:
                self._processes[name] = subprocess.Popen([sys.executable, "-S", "-c", SLEEPER], stdin=subprocess.PIPE)
                self._register(name)
        return {}

    def _register(self, name: str) -> None:
        who, bind = procfs.identity(self._processes[name].pid), self._table["bind"].get(name, "127.0.0.1")
        rank = int(name.lstrip("abcdefghijklmnopqrstuvwxyz") or 0)
        about = Registration(name, name.rstrip("0123456789"), rank, self._host(name), who.pid, who.start_ticks, bind)
        whole = self._site.registry / f"{name}.tmp"
        whole.write_text(json.dumps(asdict(about)))
        whole.rename(self._site.registry / f"{name}.json")

    def look(self) -> dict[str, Any]:
        """All that a fault could have left, as values that compare equal when nothing was."""
        hosts = sorted({host for link in self.links for host in (link.src_host, link.dst_host)})
        return {
            "networks": {host: namespace.within(host, _network) for host in hosts if host},
            "links": {link.name: _carries(link) for link in self.links},
            "toxics": [ProxyClient(self._proxy_api, link.name).toxic_names() for link in self.links if self._proxy_api],
            "disk": self._disk(),
            "file": (self.job / FILE).read_bytes() == CONTENT,
            "processes": [_state(self._processes[name].pid) for name in LASTING],
        }

    def _disk(self) -> str:
        """It takes a write, and is as free as ever (to 1/16 of it)."""
        probe = self.job / DISK / "probe"
        probe.write_bytes(bytes(4096))
        probe.unlink()
        if not self._is_virtual:
            return "of the machine"
        size, free = free_bytes(self.job / DISK)
        return f"{round(16 * free / size)}/16 free"

    def gone(self, records: list[dict[str, Any]]) -> list[str]:
        """Those that their kind still finds something of, in words."""
        found = [(one, FAULTS[FaultKind(one["kind"])].gone(one["undo"], ask_here)) for one in records if one["undo"]]
        return [f"{one['kind']}: {proof.measured}" for one, proof in found if not proof.ok]


def _state(pid: int) -> list[str]:
    """Stopped or not, limits and control groups of a process."""
    stat = procfs.read_stat(pid)
    limits = [line for line in Path(f"/proc/{pid}/limits").read_text().splitlines() if "address space" in line]
    stopped = "gone" if stat is None or stat.state in "ZX" else "stopped" if stat.state in "Tt" else "running"
    return [stopped, *limits, Path(f"/proc/{pid}/cgroup").read_text()]


def _network() -> dict[str, Any]:
    with IPRoute() as route:
        queues = [(one["index"], one.get_attr("TCA_KIND"), one["handle"]) for one in route.get_qdiscs()]
        devices = [one.get_attr("IFLA_IFNAME") for one in route.get_links()]
    with NFTables() as rules:
        tables = [table.get_attr("NFTA_TABLE_NAME") for table in rules.get_tables()]
    waiting = Path("/proc/thread-self/net/netfilter/nfnetlink_queue")
    return {"queues": queues, "devices": devices, "tables": tables, "held": waiting.read_text() if waiting.exists() else ""}


def _dial(link: LiveLink) -> socket.socket:
    """By name where it is dialled by name: so a name that fails is a link that fails."""
    if link.dst_name:
        found = ask_here("lookup", {"host": link.src_host, "name": link.dst_name})["address"]
        if found != link.dst_address:
            raise ConnectionError(f"{link.dst_name} is {found or 'unknown'}")
    near = (link.src_address, 0) if link.src_host else None
    where = (link.dst_address, link.dst_port)
    return namespace.within(link.src_host, lambda: socket.create_connection(where, DIAL_S, near))


def _carries(link: LiveLink) -> str:
    """A request and its answer go through."""
    try:
        with _dial(link) as made:
            request(made, 1000)
    except OSError as error:
        return f"does not carry: {type(error).__name__}"
    return "carries"


def _use(link: LiveLink) -> None:
    """Traffic on the link, for ever: a fault on one that is idle would prove little."""
    while True:
        with suppress(OSError), Caller(link).standing as made:
            while True:
                request(made, 2000)
                time.sleep(USE_EVERY_S)
        time.sleep(USE_EVERY_S)


def _reach(seam: str, phase: str) -> dict[str, Any]:
    """Announce, and wait for the answer; nobody there is an answer too."""
    where = {"component": "controller", "step": 3, "stage": "train", "phase": phase, "attrs": {}}
    line = {"seq": 1, "wall_s": time.time(), "mono_s": time.monotonic(), **where}
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as made, suppress(OSError):
        made.settimeout(SEAM_S)
        made.connect(seam)
        made.sendall(json.dumps(line).encode() + b"\n")
        return {"answered": bool(made.recv(100))}
    return {"answered": False}


def _answer(ground: Ground, seam: str, client: socket.socket) -> None:
    with client, client.makefile("rwb") as lines, suppress(OSError):
        asked = json.loads(lines.readline())
        doing = {
            "fresh": ground.fresh,
            "look": ground.look,
            "reach": lambda: _reach(seam, asked["phase"]),
            "gone": lambda: ground.gone(asked["records"]),
        }
        try:
            answer: Any = doing[asked["do"]]()
        except Exception as error:  # whatever went wrong is what the asker must hear
            answer = {"error": f"{type(error).__name__}: {error}"}
        lines.write(json.dumps(answer).encode() + b"\n")


def main() -> None:
    """See the module."""
    run, scratch, proxy_api = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3].strip("-")
    ground = Ground(run, proxy_api)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(scratch / "ground"))
    listener.listen(16)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        client, _ = listener.accept()
        threading.Thread(target=_answer, args=(ground, str(scratch / "stage"), client), daemon=True).start()


if __name__ == "__main__":
    main()
