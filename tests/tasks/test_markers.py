from __future__ import annotations

from typing import Any

from tasks.markers import markers

PLAN = {
    "faults": [
        {"id": "f1", "kind": "cpu-contention", "target": {"type": "process", "component": "rollout1"}},
        {"id": "f2", "kind": "network-delay", "target": {"type": "link", "src": "train0", "dst": "metaserver"}},
        {"id": "f3", "kind": "noop", "target": {"type": "process", "component": "train0"}},
    ],
    "expected": {"error": {"stage": "train"}},
}
EPOCH_S = 1_700_000_000.0


def line(what: str, fault_id: str, mono_s: float, **more: Any) -> dict[str, Any]:
    """As the injector writes them: a state is noted a little later than it was reached."""
    return {"wall_s": EPOCH_S + mono_s + 0.005, "mono_s": mono_s, "what": what, "fault_id": fault_id, **more}


def life(fault_id: str, at: float, *, seen: bool = True) -> list[dict[str, Any]]:
    return [
        line("fired", fault_id, at + 0.001, event_mono_s=at, step=3, stage="rollout"),
        line("applied", fault_id, at + 0.002, step=3, stage="rollout"),
        line("verified", fault_id, at + 0.5, ok=seen, receipt={"mono_s": at + 0.4}),
        line("gone", fault_id, at + 2.0, ok=True, receipt={"mono_s": at + 1.9}),
    ]


def test_each_application_has_the_plans_four_keys_and_its_times() -> None:
    """A fault that came twice has two records; a no-op none; an unproved effect has no time; clocks are those of the lab."""
    start = {"wall_s": EPOCH_S + 1.0, "mono_s": 1.0, "what": "armed", "fault_id": "f1"}
    found = markers(PLAN, [start, *life("f1", 10.0), *life("f3", 11.0), *life("f1", 20.0), *life("f2", 30.0, seen=False)])
    assert [one["fault_type"] for one in found] == ["cpu_contention", "cpu_contention", "network_delay"]
    first, _, link = found
    assert first["fault_injection_start"] == "2023-11-14T22:13:30.002000+00:00"
    assert (first["target_worker"], first["expected_failure_stage"]) == ("rollout1", "train")
    times = [first[f"{name}_mono_s"] for name in ("event", "applied", "observed", "gone")]
    assert times == sorted(times) == [10.0, 10.002, 10.4, 11.9]
    assert link["target_worker"] == "train0" and link["observed_mono_s"] is None


def test_a_control_arm_has_no_markers() -> None:
    """Where nothing was done nothing is marked."""
    assert markers({"faults": [PLAN["faults"][2]]}, life("f3", 1.0)) == []
