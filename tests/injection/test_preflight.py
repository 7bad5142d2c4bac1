"""The preflight says what can be had, and what it says is so."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from injection.place import PlaceError, open_place
from injection.preflight import best_place, checks

SHOW = """
import json
from dataclasses import asdict
from injection.preflight import checks
print(json.dumps([asdict(check) for check in checks()]))
"""


def by_name(rows: list[dict]) -> dict[str, dict]:
    return {row["backend"]: row for row in rows}


def test_what_it_promises_can_be_opened() -> None:
    """A place reported as available opens, one reported as not raises PlaceError; best_place is available."""
    found = by_name([asdict(check) for check in checks()])
    for kind in ("virtual-cluster", "plain-host"):
        if found[kind]["available"]:
            open_place(kind, {}).close()
        else:
            with pytest.raises(PlaceError):
                open_place(kind, {})
    assert found[best_place()]["available"]
    assert all(row["reason"] for row in found.values())


def test_an_ordinary_user_is_told_the_same(ordinary_user: Callable) -> None:
    """The answers do not depend on being root, but for the two that need it; their refusal says what becomes of the fault."""
    out, err = ordinary_user([sys.executable, "-c", SHOW]).communicate(timeout=120)
    theirs, ours = by_name(json.loads(out)), by_name([asdict(check) for check in checks()])
    disk, group = theirs.pop("disk device"), theirs.pop("memory group")
    assert theirs == {name: row for name, row in ours.items() if name not in ("disk device", "memory group")}, err
    assert not disk["available"] and "it can be full but not slow" in disk["reason"]
    assert group["available"] or "memory runs out by an allocation error" in group["reason"]


def test_refused_namespaces_are_explained(ordinary_user: Callable) -> None:
    """With namespaces forbidden, the virtual cluster and all that needs it are off, with the setting; the plain host stays."""
    forbid = 'echo 0 > /proc/sys/user/max_net_namespaces; exec "$0" -c "$1"'
    process = ordinary_user(["unshare", "--user", "--map-root-user", "sh", "-c", forbid, sys.executable, SHOW])
    out, err = process.communicate(timeout=120)
    found = by_name(json.loads(out))
    assert not found["virtual-cluster"]["available"], err
    assert "max_net_namespaces is 0" in found["virtual-cluster"]["reason"]
    assert not found["kernel htb"]["available"]
    assert found["plain-host"]["available"]
    assert found["proxy"]["available"]


def test_trying_leaves_the_network_of_this_machine_alone() -> None:
    """Even the inner part, run as whoever we are without namespaces around it, makes no device in our own network."""
    before = set(Path("/sys/class/net").iterdir())
    subprocess.run([sys.executable, "-m", "injection.preflight"], capture_output=True, timeout=60, check=False)
    assert set(Path("/sys/class/net").iterdir()) == before
