"""From a stage boundary to the effect of a fault: announced by the job -> applied and read back, per kind.

    python bench/trigger_latency.py [FIRINGS] [KIND ...]

One injector with as many faults as victims, each of which comes again at every `train` of its own victim. A boundary is
the clock that the announcing process read before it sent; the effect is the clock after `apply` has read the state back. Both
are CLOCK_MONOTONIC. Every firing is checked to be in the stage and step that was announced, and in force when the answer came.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from injection import procfs
from tests.injection.victim import Lab, Seam, plan_fault, register, wait_until

VICTIMS = 8
KINDS = {"noop": {}, "process-pause": {}, "process-kill": {}, "memory-pressure": {"headroom_mib": 64}}


class Bench:
    """An injector, its victims, and one seam a victim."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self.victims: list[subprocess.Popen[bytes]] = []
        self.lab = Lab(folder, [self.fault(number) for number in range(VICTIMS)], lease_s=60.0, barrier_hold_s=0.0)
        self.lab.start()
        for number in range(VICTIMS):
            self.victims.append(self.victim(number))
        self.wait(lambda: len(self.lab.history("armed")) == VICTIMS, "all armed")
        self.seams = [Seam(self.lab.seam, f"train{number}") for number in range(VICTIMS)]

    def fault(self, number: int) -> dict:
        who = {"stage": "train", "who": f"train{number}"}
        trigger = {"every": 1, "of": {**who, "when": "enter"}}
        until = {"event": {**who, "when": "exit"}}
        target = {"type": "process", "component": f"train{number}"}
        return plan_fault(self.kind, KINDS[self.kind], id=f"f{number}", target=target, trigger=trigger, until=until)

    def victim(self, number: int) -> subprocess.Popen[bytes]:
        started = subprocess.Popen(["sleep", "3600"])
        register(self.lab.registry, f"train{number}", procfs.identity(started.pid))
        return started

    def wait(self, truth: Callable[[], bool], what: str) -> None:
        wait_until(lambda: truth() or bool(self.lab.history("invalid")), what, 60)
        assert not self.lab.history("invalid"), self.lab.history("invalid")

    def fire_all(self, step: int) -> None:
        """One firing a victim, one after the other; then all are proved, undone and armed anew."""
        done = VICTIMS * (step + 1)
        for number, seam in enumerate(self.seams):
            seam.reach("train", step)
            if self.kind == "process-pause":
                assert procfs.read_stat(self.victims[number].pid).state == "T"
            if self.kind == "process-kill":
                assert self.victims[number].wait(0.0 + 1) == -9
        self.wait(lambda: len(self.lab.history("verified")) == done, "all verified")
        for number, seam in enumerate(self.seams):
            if self.kind == "process-kill":
                self.victims[number] = self.victim(number)
            seam.reach("train", step, "exit")
        self.wait(lambda: len(self.lab.history("armed")) == done + VICTIMS, "all armed again")

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


def measure(kind: str, firings: int) -> dict[str, object]:
    """Quantiles of one kind."""
    with tempfile.TemporaryDirectory(prefix="b-", dir="/tmp") as folder:
        began, bench = time.monotonic(), Bench(kind, Path(folder))
        try:
            for step in range(-(-firings // VICTIMS)):
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
        "took_s": took,
    }


def main() -> None:
    """One JSON line a kind."""
    firings = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    for kind in sys.argv[2:] or KINDS:
        print(json.dumps(measure(kind, firings)), flush=True)


if __name__ == "__main__":
    main()
