"""From a stage boundary to the effect of a fault: announced by the job -> applied and read back, per kind.

    python -m bench.trigger_latency [FIRINGS] [KIND ...]

One injector with as many faults as victims, each of which comes again at every `train` of its own victim. A boundary is
the clock that the announcing process read before it sent; the effect is the clock after `apply` has read the state back. Both
are CLOCK_MONOTONIC. Every firing is checked to be in the stage and step that was announced, and in force when the answer came.
The probe's proof comes after the effect and takes seconds; here it is left out, for it would measure beside the next firing.
Links and the disk are those of a virtual cluster, in which the whole bench then runs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from injection import procfs
from injection.disk import Disk
from injection.place import open_place
from injection.virtual.addresses import BRIDGE_ADDRESS, DNS_PORT, host_name
from tests.injection.victim import Lab, Seam, plan_fault, register, wait_until

ROOT = Path(__file__).resolve().parents[1]
VICTIMS = 8
#: A disk has one state for all: one victim alone.
ALONE = ("disk-fill", "io-contention")
PROCESS: dict[str, dict[str, Any]] = {
    "noop": {},
    "process-pause": {},
    "process-kill": {},
    "cpu-contention": {"share_percent": 20},
    "memory-pressure": {"headroom_mib": 64},
    "memory-pressure group": {"headroom_mib": 64, "where": "group"},
}
PATH = {
    "file-corruption": {"how": "flip"},
    "disk-fill": {"percent": 50.0},
    "io-contention": {"how": "hang"},
}
LINK: dict[str, dict[str, Any]] = {
    "network-delay": {"delay_ms": 20.0},
    "network-loss": {"loss_ratio": 0.1},
    "network-partition": {},
    "network-reset": {},
    "network-bandwidth": {"rate_bytes_per_s": 1e6},
    "dns-failure": {"how": "nxdomain"},
}
KINDS = PROCESS | PATH | LINK
UNPROVED = """
import sys
from injection import hand, injector
hand.Hand._verify = lambda self, fault: self._shop.history.state("verified", self.id)
sys.exit(injector.main(sys.argv[1:]))
"""
COMPONENTS = {"metaserver": "control", **{f"train{number}": "trainers" for number in range(VICTIMS)}}
DISK_MIB = 32


class Unproved(Lab):
    """A lab whose injector measures nothing."""

    def _spawn(self, argv: list[str]) -> subprocess.Popen[str]:
        process = subprocess.Popen([sys.executable, "-c", UNPROVED, *argv[1:]], stdout=subprocess.PIPE, text=True)
        self._started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process


class Bench:
    """An injector, its victims, and one seam a victim. `ground` says where links lead and the disk lies, if anywhere."""

    def __init__(self, kind: str, folder: Path, ground: dict[str, Any]) -> None:
        self.kind, self._folder, self.count = kind, folder, 1 if kind in ALONE else VICTIMS
        self.victims: list[subprocess.Popen[bytes]] = []
        faults = [self.fault(number) for number in range(self.count)]
        self.lab = Unproved(folder, faults, lease_s=60.0, barrier_hold_s=0.0, place=ground.get("place", "plain-host"))
        (folder / "addresses.json").write_text(json.dumps(ground.get("names") or {}))
        self.lab.start()
        for number in range(self.count):
            self.victims.append(self.victim(number))
        self.wait(lambda: len(self.lab.history("armed")) == self.count, "all armed")
        self.seams = [Seam(self.lab.seam, f"train{number}") for number in range(self.count)]

    def fault(self, number: int) -> dict[str, Any]:
        who = {"stage": "train", "who": f"train{number}"}
        trigger = {"every": 1, "of": {**who, "when": "enter"}}
        until = {"event": {**who, "when": "exit"}}
        target: dict[str, Any] = {"type": "process", "component": f"train{number}"}
        if self.kind in LINK:
            target = {"type": "link", "src": f"train{number}", "dst": "metaserver", "purpose": "weights"}
        if self.kind in PATH:
            (self._folder / f"file{number}").write_bytes(bytes(4096))
            target |= {"type": "path", "path": f"file{number}" if self.kind == "file-corruption" else "recover"}
        kind = self.kind.split()[0]
        return plan_fault(kind, KINDS[self.kind], id=f"f{number}", target=target, trigger=trigger, until=until)

    def victim(self, number: int) -> subprocess.Popen[bytes]:
        started = subprocess.Popen(["sleep", "3600"])
        host = "trainers" if self.kind in LINK else "localhost"
        register(self.lab.registry, f"train{number}", procfs.identity(started.pid), host)
        return started

    def wait(self, truth: Callable[[], bool], what: str) -> None:
        wait_until(lambda: truth() or bool(self.lab.history("invalid")), what, 60)
        assert not self.lab.history("invalid"), self.lab.history("invalid")

    def fire_all(self, step: int) -> None:
        """One firing a victim, one after the other; then all are undone and armed anew."""
        done = self.count * (step + 1)
        for number, seam in enumerate(self.seams):
            seam.reach("train", step)
            if self.kind == "process-pause":
                assert procfs.read_stat(self.victims[number].pid).state == "T"
            if self.kind == "process-kill":
                assert self.victims[number].wait(0.0 + 1) == -9
        self.wait(lambda: len(self.lab.history("verified")) == done, "all told")
        for number, seam in enumerate(self.seams):
            if self.kind == "process-kill":
                self.victims[number] = self.victim(number)
            seam.reach("train", step, "exit")
        self.wait(lambda: len(self.lab.history("armed")) == done + self.count, "all armed again")

    def figures(self) -> list[float]:
        """Milliseconds from boundary to effect of each firing; each in the stage and step announced."""
        announced = {(line["component"], line["step"]): line for line in self.lab.history("event") if line["phase"] == "enter"}
        applied = self.lab.history("applied")
        assert len(applied) == len(announced)
        times = []
        for line in applied:
            boundary = announced[f"train{line['fault_id'][1:]}", line["step"]]
            assert line["stage"] == boundary["stage"]
            times.append((line["mono_s"] - boundary["mono_s"]) * 1000)
        return times

    def close(self) -> None:
        for seam in self.seams:
            seam.close()
        assert self.lab.stop() == 0
        self.lab.close()
        for victim in self.victims:
            victim.kill()
            victim.wait()


def measure(kind: str, firings: int, ground: dict[str, Any]) -> dict[str, object]:
    """Quantiles of one kind."""
    with tempfile.TemporaryDirectory(prefix="b-", dir="/tmp") as made:
        folder = Path(ground.get("folder") or made)
        began, bench = time.monotonic(), Bench(kind, folder, ground)
        try:
            for step in range(-(-firings // bench.count)):
                bench.fire_all(step)
            times = sorted(bench.figures())
        finally:
            bench.close()
    quantiles = {f"p{q}_ms": round(times[min(len(times) - 1, len(times) * q // 100)], 3) for q in (50, 90, 99)}
    took = round(time.monotonic() - began, 1)
    return {
        "kind": kind,
        "firings": len(times),
        "in_place": len(times),
        **quantiles,
        "max_ms": round(times[-1], 3),
        "load": round(os.getloadavg()[0], 1),
        "took_s": took,
    }


def in_cluster(kind: str, firings: int) -> None:
    """The same inside a virtual cluster: with a disk of the lab's own, and names, where the kind wants them."""
    with tempfile.TemporaryDirectory(prefix="b-", dir="/tmp") as made:
        folder, named = Path(made), kind == "dns-failure"
        disk = Disk(folder / "recover", DISK_MIB) if kind in PATH else None
        place = open_place("virtual-cluster", COMPONENTS, disk, names=named)
        try:
            address = {name: place.component_address(name) for name in COMPONENTS}
            dial = host_name("metaserver") if named else address["metaserver"]
            # A port each, so that who looks whether a link is free meets nobody else who does.
            links = {f"train{number}>metaserver:weights": f"{dial}:{8080 + number}" for number in range(VICTIMS)}
            listen = {"metaserver": {"weights": f"{address['metaserver']}:8080"}}
            names = {"host": COMPONENTS, "bind": address, "listen": listen, "dial": links}
            if named:
                (folder / "names.json").write_text(json.dumps({host_name(name): where for name, where in address.items()}))
                told = [str(place.scratch), f"{BRIDGE_ADDRESS}:{DNS_PORT}", str(folder / "names.json")]
                server = place.spawn([sys.executable, "-m", "injection.names", *told], host="", log=folder / "server.log")
                wait_until(lambda: "ready" in (folder / "server.log").read_text() or server.poll() is not None, "names")
            ground = {"place": "virtual-cluster", "names": names, "folder": made}
            argv = [sys.executable, __file__, "inside", kind, str(firings), json.dumps(ground)]
            log = folder / "out.log"
            place.spawn(argv, host="", log=log, env={"PYTHONPATH": str(ROOT)}).wait(600)
            print(log.read_text(), end="", flush=True)
        finally:
            place.close()


def main() -> None:
    """One JSON line a kind."""
    if sys.argv[1:2] == ["inside"]:
        print(json.dumps(measure(sys.argv[2], int(sys.argv[3]), json.loads(sys.argv[4]))), flush=True)
        return
    firings = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    for kind in sys.argv[2:] or KINDS:
        if kind in PROCESS:
            print(json.dumps(measure(kind, firings, {})), flush=True)
        else:
            in_cluster(kind, firings)


if __name__ == "__main__":
    main()
