import json
from pathlib import Path

import pytest

from storage.records import Label
from storage.seal import commit, verify_seal
from storage.truth import load_label, load_names, load_plan, load_salt
from tasks.seal import NO_FAULT, NotSealableError, commitment, committed, label_of, seal_run
from tests.synthetic_job import CANARY, FAULT, make_run


def test_sealing_writes_label_names_and_commitment(tmp_path: Path) -> None:
    """The sealed case holds a commitment that label, salt and manifest reproduce, and no byte of them."""
    paths = make_run(tmp_path)
    manifest = seal_run(paths)
    label = load_label(paths)
    assert label == Label(
        fault=True, component="train1", stage="weights_update", kinds=("network-bandwidth",), peer="metaserver", step=1
    )
    told = (paths.evidence / "commitment.txt").read_text().strip()
    assert told == commit(committed(label, paths.evidence / "manifest.json"), load_salt(paths))
    assert verify_seal(paths, committed(label, paths.evidence / "manifest.json"), load_salt(paths)) == []
    assert json.loads((paths.evidence / "manifest.json").read_text()) == manifest
    public = "".join(path.read_text() for path in paths.evidence.rglob("*") if path.is_file())
    assert load_salt(paths) not in public and CANARY not in public
    assert not any(neutral == own for own, neutral in load_names(paths).items())


def test_salts_are_never_reused(tmp_path: Path) -> None:
    """Two cases with the same label have different salts, names and commitments, and one's salt does not open the other."""
    one, two = make_run(tmp_path), make_run(tmp_path)
    seal_run(one), seal_run(two)
    assert load_label(one) == load_label(two)
    assert load_salt(one) != load_salt(two)
    assert load_names(one) != load_names(two)
    borrowed = commitment(load_label(one), load_salt(one), two.evidence / "manifest.json")
    assert borrowed != (one.evidence / "commitment.txt").read_text().strip()


def test_control_run_has_a_no_fault_label(tmp_path: Path) -> None:
    """A run of no-ops is sealed like any other, with the label that nothing was wrong."""
    paths = make_run(tmp_path, "noop")
    seal_run(paths)
    assert load_label(paths) == Label(fault=False, component="", stage="", kinds=())


@pytest.mark.parametrize(
    ("lose", "reason"),
    [
        ("fired", "fault f1 was not fired"),
        ("gone", "fault f1 was not gone"),
        ("", "fault f1 was not verified"),
    ],
)
def test_a_run_whose_fault_is_not_proven_is_not_sealed(tmp_path: Path, lose: str, reason: str) -> None:
    """Without proof that the fault came and went the label would be false; a failed probe is no proof."""
    paths = make_run(tmp_path)
    lines = [json.loads(line) for line in paths.history.read_text().splitlines()]
    lines = [{**line, "ok": bool(lose) or line["what"] != "verified"} for line in lines if line["what"] != lose]
    paths.history.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ValueError, match=reason):
        seal_run(paths)
    assert not paths.evidence.exists()


def test_what_a_decoy_does_is_no_fault(tmp_path: Path) -> None:
    """Something was done and proven, and the label is that of a run in which nothing was; unproven it is no case either."""
    paths = make_run(tmp_path, "network-delay")
    paths.plan.write_text(json.dumps(load_plan(paths) | {"decoy": True}))
    history = paths.history.read_text()
    paths.history.write_text("")
    with pytest.raises(NotSealableError, match="fault f1 was not fired"):
        seal_run(paths)
    paths.history.write_text(history)
    seal_run(paths)
    assert load_label(paths) == NO_FAULT


def test_a_case_is_sealed_once(tmp_path: Path) -> None:
    """Sealing again is refused and changes neither label nor salt."""
    paths = make_run(tmp_path)
    seal_run(paths)
    salt = load_salt(paths)
    with pytest.raises(FileExistsError, match="sealed already"):
        seal_run(paths)
    assert load_salt(paths) == salt


def test_label_of_a_composed_scenario() -> None:
    """The real fault that fired first is the root, every kind counts, and a process target has no peer."""
    process = {"type": "process", "component": "rollout1"}
    later = {**FAULT, "id": "f2", "kind": "memory-pressure", "trigger": {"step": 4, "stage": "rollout"}, "target": process}
    first = {**later, "id": "f3", "kind": "cpu-contention", "trigger": {"step": 2, "stage": "rollout"}}
    noop = {**FAULT, "kind": "noop", "trigger": {"step": 0, "stage": "train"}}
    fired = [{"what": "fired", "fault_id": name, "mono_s": at} for name, at in (("f1", 0.0), ("f3", 2.0), ("f2", 4.0))]
    label = label_of({"faults": [noop, later, first]}, fired)
    assert label == Label(
        fault=True, component="rollout1", stage="rollout", kinds=("cpu-contention", "memory-pressure"), step=2
    )
