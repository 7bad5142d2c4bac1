"""From the announcement of a stage boundary to the effect of a fault: event arrived -> applied (state read back), per kind.

    python bench/trigger_latency.py [FIRINGS]

One injector with FIRINGS faults on as many processes, one a step; the figures come from its own history, whose clock is
CLOCK_MONOTONIC. The journal's fsync lies inside the measured time: nothing is touched before its undo is on disk.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from injection import procfs
from tests.injection.victim import Lab, Seam, plan_fault, register, wait_until

#: Faults of one injector; each has a probe process of its own, so not all at once.
BATCH = 10


def fire(kind: str, count: int, folder: Path) -> list[float]:
    """Milliseconds from event to effect of `count` firings of one kind."""
    victims = [subprocess.Popen(["sleep", "3600"]) for _ in range(count)]
    faults = []
    for number in range(count):
        target = {"type": "process", "component": f"train{number}"}
        trigger = {"step": number, "stage": "train", "when": "enter"}
        faults.append(plan_fault(kind, id=f"f{number}", target=target, trigger=trigger))
    lab = Lab(folder, faults, lease_s=60.0)
    try:
        lab.start()
        for number, victim in enumerate(victims):
            register(lab.registry, f"train{number}", procfs.identity(victim.pid))
        wait_until(lambda: len(lab.history("armed")) + len(lab.history("invalid")) >= count, "all armed", 300)
        assert not lab.history("invalid"), lab.history("invalid")
        seam = Seam(lab.seam)
        for number in range(count):
            seam.reach("train", number)
        wait_until(lambda: len(lab.history("verified")) == count, "all verified", 300)
        assert lab.stop() == 0
        assert all(line["ok"] for line in lab.history("gone"))
        arrived = {line["fault_id"]: line["event_mono_s"] for line in lab.history("fired")}
        return [(line["mono_s"] - arrived[line["fault_id"]]) * 1000 for line in lab.history("applied")]
    finally:
        lab.close()
        for victim in victims:
            victim.kill()
            victim.wait()


def main() -> None:
    """Measure in batches (each fault has a probe process of its own) and print one JSON line a kind."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    for kind in ("noop", "process-pause", "process-kill"):
        times: list[float] = []
        while len(times) < count:
            with tempfile.TemporaryDirectory(prefix="b-", dir="/tmp") as folder:
                times += fire(kind, min(BATCH, count - len(times)), Path(folder))
        times.sort()
        quantiles = {f"p{q}_ms": round(times[min(len(times) - 1, len(times) * q // 100)], 3) for q in (50, 90, 99)}
        print(json.dumps({"kind": kind, "firings": len(times), **quantiles, "max_ms": round(times[-1], 3)}))


if __name__ == "__main__":
    main()
