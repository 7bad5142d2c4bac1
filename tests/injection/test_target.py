from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from injection import procfs
from injection.capability import BACKENDS, PLACES, PLAIN_HOST, VIRTUAL_CLUSTER, NotCapableError, capability
from injection.fault import Context, RefusedError
from injection.measure import ask_here
from injection.registry import FAULTS, TARGETS, make_fault
from injection.target import LiveLink, LiveProcess, NoSuchTargetError, ProtectedError, Site, await_target, resolve
from storage.records import FaultKind
from tests.injection.victim import register

LINK = {"type": "link", "src": "train1", "dst": "metaserver", "purpose": "weights"}
TRAIN1 = {"type": "process", "component": "train1"}


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "600"])
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    (tmp_path / "registry").mkdir()
    host = {"metaserver": "control"}
    names = {
        "host": host,
        "bind": {"train1": "10.98.0.103"},
        "listen": {},
        "dial": {"train1>metaserver:weights": "10.98.0.105:8080"},
    }
    (tmp_path / "addresses.json").write_text(json.dumps(names))
    return Site(tmp_path / "registry", tmp_path / "addresses.json")


def test_a_target_becomes_live_addresses(site: Site, sleeper: subprocess.Popen[bytes]) -> None:
    """A process is its registered pid and start time; a link is the source's bound address and the address it dials."""
    register(site.registry, "train1", procfs.identity(sleeper.pid), "trainers")
    process, link = resolve(TRAIN1, site), resolve(LINK, site)
    assert isinstance(process, LiveProcess) and process.who == procfs.identity(sleeper.pid)
    assert link == LiveLink("train1>metaserver:weights", "trainers", "10.98.0.103", "control", "10.98.0.105", 8080)


def test_what_does_not_exist_is_refused_with_what_does(site: Site, sleeper: subprocess.Popen[bytes]) -> None:
    """Unknown components and links are refused in one sentence that lists the known ones."""
    register(site.registry, "train1", procfs.identity(sleeper.pid))
    with pytest.raises(NoSuchTargetError, match=r"^no process 'train7' has registered; registered: train1$"):
        resolve({"type": "process", "component": "train7"}, site)
    with pytest.raises(NoSuchTargetError, match="there is no link 'train1>reward:weights'; links: train1>metaserver:weights"):
        resolve({**LINK, "dst": "reward"}, site)


def test_a_reused_pid_is_not_the_target(site: Site, sleeper: subprocess.Popen[bytes]) -> None:
    """The same pid with another start time is another process, and refused."""
    who = procfs.identity(sleeper.pid)
    register(site.registry, "train1", procfs.Identity(who.pid, who.start_ticks + 1))
    with pytest.raises(NoSuchTargetError, match="no longer running"):
        resolve(TRAIN1, site)


def test_protected_processes_are_refused(site: Site, sleeper: subprocess.Popen[bytes]) -> None:
    """PID 1, oneself, one's parent and whatever the lab names are never targets."""
    shielded = Site(site.registry, site.addresses, frozenset({sleeper.pid}))
    for pid in (1, os.getpid(), os.getppid(), sleeper.pid):
        register(site.registry, "train1", procfs.identity(pid))
        with pytest.raises(ProtectedError, match="protected"):
            resolve(TRAIN1, shielded)


def test_waiting_for_a_target_ends_when_told(site: Site) -> None:
    """Arming stops waiting as soon as the run is over, with the refusal as its reason."""
    with pytest.raises(NoSuchTargetError, match="registered: none"):
        await_target(TRAIN1, site, 3600.0, lambda: True)


def test_every_kind_has_a_class_a_target_and_a_verdict_for_each_place() -> None:
    """The vocabulary, the registry and the capability table agree; a refusal says why and where it can be done."""
    assert set(FAULTS) == set(TARGETS) == set(FaultKind)
    for kind in FaultKind:
        for place in PLACES:
            if (kind, place) in BACKENDS:
                assert capability(kind, place) == BACKENDS[kind, place][0]
                continue
            with pytest.raises(NotCapableError, match=f"^{kind} cannot be done in the {place}: .*; it can be done in: "):
                capability(kind, place)
    with pytest.raises(NotCapableError, match="unknown place"):
        capability("noop", "cloud")


def test_a_backend_is_chosen_by_what_is_there_and_what_it_can_do() -> None:
    """The first backend that this machine has and that can do the parameters; where there is none, each says what it lacks."""
    assert capability("network-delay", VIRTUAL_CLUSTER, {"delay_ms": 5}) == "netem"
    assert capability("network-delay", VIRTUAL_CLUSTER, {"delay_ms": 5}, {"netem"}) == "nfqueue"
    assert capability("network-delay", VIRTUAL_CLUSTER, {"delay_ms": 5, "distribution": "normal"}) == "nfqueue"
    with pytest.raises(NotCapableError, match="proxy: correlation_ratio: a proxy delays each piece of data for itself"):
        capability("network-delay", PLAIN_HOST, {"delay_ms": 5, "correlation_ratio": 0.5})
    with pytest.raises(NotCapableError, match="proxy: interface: a proxy has no device"):
        capability("network-bandwidth", PLAIN_HOST, {"rate_bytes_per_s": 5e4, "interface": "eth0"})
    with pytest.raises(NotCapableError, match="nfqueue: this machine lacks it"):
        capability("network-loss", VIRTUAL_CLUSTER, {"loss_ratio": 0.5}, {"nfqueue"})
    with pytest.raises(NotCapableError, match="reset_after_ms: the kernel resets connections at once"):
        capability("network-reset", VIRTUAL_CLUSTER, {"reset_after_ms": 10})


@pytest.mark.parametrize(("kind", "params"), [("process-kill", {}), ("memory-pressure", {"headroom_mib": 1})])
def test_a_fault_refuses_the_wrong_kind_of_target(kind: str, params: dict[str, float]) -> None:
    """A process fault on a link is refused before anything is prepared."""
    link = LiveLink("a>b:rpc", "", "127.0.0.1", "", "127.0.0.1", 1)
    with pytest.raises(RefusedError, match="must be a process, not the link a>b:rpc"):
        make_fault(kind, params, Context(link, "process", ask_here))


@pytest.mark.parametrize("params", [{}, {"headroom_mib": -1}, {"headroom_mib": float("nan")}, {"headroom_mib": 1, "other": 2}])
def test_a_fault_refuses_parameters_out_of_range(params: dict[str, float]) -> None:
    """Missing, negative, not-a-number and unknown parameters never reach a fault."""
    me = LiveProcess("train1", "", "", procfs.identity(os.getpid()))
    with pytest.raises(ValueError, match=r"headroom_mib|other"):
        make_fault("memory-pressure", params, Context(me, "process", ask_here))
