"""One suite, every declared way of doing a fault to a link, on every ground: `conformance.py` is its body."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from injection.capability import BACKENDS, PLAIN_HOST, VIRTUAL_CLUSTER
from injection.place import open_place
from injection.registry import TARGETS
from storage.records import FaultKind
from tests.injection.conformance import PARAMETERS, cases
from tests.injection.grounds import of_proxy

pytestmark = pytest.mark.job  # real networks, most of a minute

PATIENCE_S = 200

IN_CLUSTER = """
import sys
from pathlib import Path
from injection.place import open_place
from tests.injection.grounds import of_cluster
place = open_place("virtual-cluster", {"metaserver": "control", "train1": "trainers"})
try:
    log = Path("out.log").absolute()
    code = {"PYTHONPATH": sys.argv[1]}
    argv = [sys.executable, "-m", "tests.injection.conformance", of_cluster(place)]
    process = place.spawn(argv, host="", log=log, env=code)
    code = process.wait(200)
    print(log.read_text())
    assert code == 0
finally:
    place.close()
"""


def judge(out: str, expected: int) -> None:
    """Every case was tried and none had trouble. What this machine has not is told by name and not counted as right."""
    lines = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    assert len(lines) >= expected, out
    for line in lines:
        print(f"{line['case']}: {line['absent'] or line['trouble'] or 'as promised'} ({line['s']} s)")
    trouble = [f"{line['case']}\n{line['trouble']}" for line in lines if line["trouble"]]
    assert not trouble, "\n".join(trouble)
    assert sum(not line["absent"] for line in lines) > len(PARAMETERS)


def test_every_way_keeps_its_promises_for_an_ordinary_user(ordinary_user: Callable) -> None:
    """Virtual cluster, no privilege: armed nothing, applied seen, bystander spared, reverted gone, killed leaves nothing."""
    repository = str(Path(__file__).resolve().parents[2])
    out, err = ordinary_user([sys.executable, "-c", IN_CLUSTER, repository]).communicate(timeout=PATIENCE_S)
    assert out, err
    judge(out, len(cases(VIRTUAL_CLUSTER)))


@pytest.mark.root
def test_every_kind_keeps_its_promises_for_root_on_networks_of_the_machine() -> None:
    """The same code, as root, on two named networks that are no virtual cluster."""
    argv = [sys.executable, "-m", "tests.injection.grounds"]
    tried = subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert tried.returncode == 0, tried.stderr
    judge(tried.stdout, len(PARAMETERS))


def test_every_way_keeps_its_promises_through_a_proxy(scratch: Path) -> None:
    """Plain host: the same promises, as far as the table says that a proxy can make them."""
    place = open_place("plain-host", {"train1": "localhost", "metaserver": "localhost"})
    try:
        argv = [sys.executable, "-m", "tests.injection.conformance", of_proxy(place, scratch / "relays.log")]
        tried = subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        assert tried.returncode == 0, tried.stderr
        lines = [json.loads(line) for line in tried.stdout.splitlines()]
        trouble = [f"{line['case']}\n{line['trouble']}" for line in lines if line["trouble"]]
        assert not trouble, "\n".join(trouble)
        assert len(lines) >= len(cases(PLAIN_HOST))
    finally:
        place.close()


def test_every_fault_on_links_is_in_the_suite() -> None:
    """A kind that acts on the bytes of a link is tried wherever it has a backend; names are looked up elsewhere."""
    on_links = {kind for kind, targets in TARGETS.items() if targets == ("link",)} - {FaultKind.DNS_FAILURE}
    assert {FaultKind(kind) for kind in PARAMETERS} == on_links & {kind for kind, _ in BACKENDS}
