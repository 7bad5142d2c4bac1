"""What holds, fills or damages is undone by the watchdog, whether the injector dies or only falls silent."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from injection import journal
from injection.measure import ask_here
from injection.measure_memory import available_memory
from injection.memory.pressure import MIB
from injection.recover import FAULTS
from storage.records import FaultKind
from tests.injection.victim import Lab, Seam, Victim, alive, plan_fault, register, wait_until

CONTENT = bytes(range(1, 200))
PATH = {"type": "path", "component": "train1", "path": "recover/model.pt"}
LASTING: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "group": ("memory-pressure", {"where": "group", "headroom_mib": 200.0, "ballast_mib": 8.0}, {}),
    "machine": ("memory-pressure", {"where": "machine"}, {}),
    "device": ("memory-pressure", {"where": "device", "headroom_mib": 1.0}, {}),
    "flip": ("file-corruption", {"how": "flip", "size_bytes": 9}, {"target": PATH}),
    "truncate": ("file-corruption", {"how": "truncate"}, {"target": PATH}),
}


@pytest.fixture
def lab(scratch: Path, request: pytest.FixtureRequest) -> Iterator[tuple[Lab, Victim]]:
    """A lab with one fault armed, and a job's folder with a device and a file."""
    kind, params, changes = LASTING[request.param]
    if request.param == "machine":
        params = {**params, "headroom_mib": float(available_memory()["available_bytes"] // MIB - 768)}
    for folder in ("arena", "recover"):
        (scratch / folder).mkdir()
    (scratch / "config.json").write_text(json.dumps({"device": "cpu", "colocated": True, "arena_path": ""}))
    (scratch / "arena" / "node1").write_bytes(bytes(2 * MIB))
    (scratch / "recover" / "model.pt").write_bytes(CONTENT)
    one, victim = Lab(scratch, [plan_fault(kind, params, **changes)]), Victim()
    register(one.registry, "train1", victim.who)
    one.start()
    yield one, victim
    one.close()
    victim.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=lambda number: number.name)
@pytest.mark.parametrize(
    "lab", [pytest.param(name, marks=[pytest.mark.root] if name == "group" else []) for name in LASTING], indirect=True
)
def test_the_watchdog_undoes_it(lab: tuple[Lab, Victim], number: int) -> None:
    """Within lease + 5 s of `kill -9`, or silence, the probe finds nothing; the file is whole again, the target lives."""
    one, victim = lab
    one.wait_for("armed")
    one.start_watchdog()
    seam = Seam(one.seam)
    seam.reach("train", 3)
    one.wait_for("verified")
    record = next(journal.records(one.journal, "r1"))
    fault = FAULTS[FaultKind(record.kind)]
    assert not fault.gone(record.undo, ask_here).ok
    one.process.send_signal(number)
    wait_until(lambda: fault.gone(record.undo, ask_here).ok, "it is undone", one.lease_s + 5)
    assert (one.folder / "recover" / "model.pt").read_bytes() == CONTENT
    holders = [record.undo[key][0] for key in ("holder", "ballast") if key in record.undo]
    wait_until(lambda: not any(alive(pid) for pid in holders), "its helper is dead")  # what it held is free a moment before
    assert victim.who.alive() and victim.allocate() == "allocated"
    if number == signal.SIGSTOP:
        one.process.send_signal(signal.SIGCONT)
        assert one.stop() == 0
        assert "the watchdog undid it" in one.history("invalid")[-1]["reason"]
    seam.close()
