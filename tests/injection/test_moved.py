"""A target that is another process, or has other addresses, when the trigger comes than when the fault was armed."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from injection import journal
from injection.journal import State
from injection.place import open_place
from injection.proxies import start_proxies
from injection.proxy_client import ProxyClient
from injection.recover import sweep
from storage.records import Link
from tests.injection.test_network_faults import LINK, NAME, Cluster, Upload
from tests.injection.victim import Lab, Seam, Victim, alive, plan_fault, register, started, wait_until


def hit(lab: Lab, meant: Victim, other: Victim) -> None:
    """The trigger comes: one stands still, the other goes on; both go on afterwards, and nothing is left or invalid."""
    seam = Seam(lab.seam)
    seam.reach("train", 3)
    assert meant.state == "T" and other.state != "T"
    lab.wait_for("verified")
    seam.close()
    assert lab.stop() == 0
    assert meant.state != "T" and not lab.history("invalid")
    words = [line["what"] for line in lab.history() if line["what"] not in ("event", "armed")]
    assert words == ["fired", "applied", "verified", "reverted", "gone"]
    assert list(lab.journal.iterdir()) == []


def test_who_was_started_anew_before_the_trigger_is_who_is_hit(scratch: Path, victim: Victim, labs: list[Lab]) -> None:
    """A target that came back as another process between arming and firing is hit, and the first is not; nothing is left."""
    lab = started(labs, scratch, victim, [plan_fault("process-pause")])
    other = Victim()
    try:
        register(lab.registry, "train1", other.who)
        wait_until(lambda: len(lab.history("armed")) == 2, "it is armed anew")
        hit(lab, other, victim)
    finally:
        other.close()


def test_who_moved_at_the_last_moment_is_who_is_hit(scratch: Path, victim: Victim, labs: list[Lab]) -> None:
    """Between the last look and the trigger there is no gap: whoever has registered before the announcement is hit."""
    lab = started(labs, scratch, victim, [plan_fault("process-pause")])
    other = Victim()
    try:
        register(lab.registry, "train1", other.who)
        hit(lab, other, victim)
    finally:
        other.close()


def test_a_target_that_is_being_restarted_at_the_trigger_is_waited_for(scratch: Path, labs: list[Lab]) -> None:
    """Dead when the trigger comes, registered anew while the job waits at the barrier: hit, and the run counts."""
    first, other = Victim(), Victim()
    try:
        lab = started(labs, scratch, first, [plan_fault("process-pause")])
        first.close()
        back = threading.Timer(0.5, register, (lab.registry, "train1", other.who))
        back.start()
        hit(lab, other, first)
    finally:
        back.join()
        other.close()


def test_a_target_that_does_not_come_back_is_refused_and_undoing_waits_for_nobody(
    scratch: Path, victim: Victim, labs: list[Lab]
) -> None:
    """Dead for good at the trigger: invalid by name, answered within the patience; what is beside it is undone at its exit."""
    until = {"when": "exit", "stage": "train"}
    beside = plan_fault("process-pause", id="f2", target={"type": "process", "component": "train2"}, until=until)
    other, dead = Victim(), Victim()
    try:
        lab = Lab(scratch, [plan_fault("process-pause", until=until), beside])
        labs.append(lab)
        lab.start()
        for component, who in (("train1", dead.who), ("train2", other.who)):
            register(lab.registry, component, who)
        wait_until(lambda: len(lab.history("armed")) == 2, "both are armed")
        dead.close()
        seam = Seam(lab.seam)
        seam.reach("train", 3)
        assert other.state == "T"
        seam.reach("train", 3, "exit")
        assert other.state != "T"
        assert lab.stop() == 0
        seam.close()
        assert [line["fault_id"] for line in lab.history("invalid")] == ["f1"]
        assert "is no longer running" in lab.history("invalid")[0]["reason"]
    finally:
        other.close()


def test_a_target_that_is_restarted_again_and_again_is_followed(scratch: Path, victim: Victim, labs: list[Lab]) -> None:
    """Ten times, faster than a fault with helpers is armed: the last is hit, every helper of the others has ended."""
    lab = started(labs, scratch, victim, [plan_fault("cpu-contention", {"share_percent": 50})])
    helpers = set()
    others = []
    try:
        for _ in range(10):
            others.append(Victim())
            register(lab.registry, "train1", others[-1].who)
            helpers |= {pid for record in journal.records(lab.journal, "r1") for pid, _ in record.undo.get("processes", [])}
            if len(others) > 1:
                others[-2].close()
        seam = Seam(lab.seam)
        seam.reach("train", 3)
        # A busy machine may take longer than the patience of an announcement, which is told; it is hit all the same.
        wait_until(lambda: bool(lab.history("verified")), f"it is proved: {lab.history()}", 60)
        used = {pid for pid, _ in next(journal.records(lab.journal, "r1")).undo["processes"]}
        assert not any(alive(pid) for pid in helpers - used)
        assert lab.stop() == 0
        assert lab.history("gone")[0]["ok"] and not any(alive(pid) for pid in used)
        seam.close()
    finally:
        for one in others:
            one.close()


@pytest.mark.parametrize("after_s", [0.0, 0.05, 0.1, 0.2, 0.35])
def test_an_injector_that_is_killed_while_it_follows_leaves_nothing(
    scratch: Path, victim: Victim, labs: list[Lab], after_s: float
) -> None:
    """Kill -9 in the middle of arming anew: every helper is gone with it, and the watchdog closes what is on disk."""
    lab = started(labs, scratch, victim, [plan_fault("cpu-contention", {"share_percent": 50})])
    watchdog, other, helpers = lab.start_watchdog(), Victim(), set[int]()
    injector = psutil.Process(lab.process.pid)
    try:
        register(lab.registry, "train1", other.who)
        until = time.monotonic() + after_s
        while time.monotonic() < until:
            helpers |= {child.pid for child in injector.children(recursive=True)}
        helpers |= {child.pid for child in injector.children(recursive=True)}
        lab.process.kill()
        assert watchdog.wait(timeout=lab.lease_s + 5) == 0
        assert helpers
        wait_until(lambda: not any(alive(pid) for pid in helpers), "helpers and probe are gone", 5)
        assert [record.state for record in journal.records(lab.journal) if record.state != State.REVERTED] == []
        assert not any(one.outcome == "stuck" for one in sweep(lab.journal)) and list(lab.journal.glob("*.json")) == []
    finally:
        other.close()


@pytest.mark.job
def test_a_link_whose_proxy_moved_is_hit_where_it_is_dialled_now(scratch: Path, victim: Victim, labs: list[Lab]) -> None:
    """Plain host: the name table tells of another proxy before the trigger; that one slows its requests, the first does not."""
    place, upload = open_place("plain-host", {"train1": "localhost"}), Upload(100)
    try:
        other = "train9>metaserver:weights"
        both = [Link(src, "metaserver", "weights", upload.address) for src in ("train1", "train9")]
        relays = start_proxies(place, both, scratch / "relays.log")
        lab = Lab(scratch, [plan_fault("network-delay", {"delay_ms": 300}, target=LINK)], proxy_api=relays.api)
        labs.append(lab)
        names: dict[str, Any] = {"host": {"metaserver": "localhost"}, "bind": {}, "listen": {}, "dial": relays.dial}
        (scratch / "addresses.json").write_text(json.dumps(names))
        register(lab.registry, "train1", victim.who)
        lab.start()
        lab.wait_for("armed")
        (scratch / "fresh").write_text(json.dumps(names | {"dial": {NAME: relays.dial[other]}, "proxy": {NAME: other}}))
        (scratch / "fresh").rename(scratch / "addresses.json")
        upload.dial(relays.dial[other])
        seam = Seam(lab.seam)
        seam.reach("train", 3)
        assert lab.wait_for("verified")["ok"]
        assert ProxyClient(relays.api, NAME).toxic_names() == [] and len(ProxyClient(relays.api, other).toxic_names()) == 1
        assert lab.stop() == 0
        seam.close()
        assert ProxyClient(relays.api, other).toxic_names() == [] and not lab.history("invalid")
    finally:
        upload.close()
        place.close()


@pytest.mark.job
def test_in_the_cluster_processes_and_links_are_followed(scratch: Path) -> None:
    """Virtual cluster: the sender is started anew, its link gets another port: the new process stands, the new port is cut."""
    faults = [plan_fault("process-pause"), plan_fault("network-partition", {"direction": "forward"}, id="f2", target=LINK)]
    cluster = Cluster(scratch, *faults)
    try:
        first = registered(cluster, "train1")
        again = cluster.start_sender("train1")
        sink = cluster.place.component_address("metaserver")
        names = cluster.names | {"dial": cluster.names["dial"] | {NAME: f"{sink}:8090"}}
        cluster.tell_names(names)
        seam = Seam(cluster.lab.seam)
        seam.reach("train", 3)
        wait_until(lambda: len(cluster.lab.history("verified")) == 2, f"both are proved: {cluster.lab.history()}", 60)
        assert not cluster.lab.history("invalid")
        second = registered(cluster, "train1")
        assert second["pid"] == again.pid != first["pid"]
        assert cluster.ask("process_state", second)["states"] == "T"
        assert "T" not in cluster.ask("process_state", first)["states"]
        path = {"src_host": "trainers", "src": cluster.place.component_address("train1"), "dst_host": "control", "dst": sink}
        asked = {"backward": False, "count": 5, "gap_s": 0.01, "wait_s": 1.0}
        came = {
            port: cluster.ask("link_echo", {"path": {**path, "port": port}, **asked})["received_count"] for port in (8080, 8090)
        }
        assert came == {8080: 5, 8090: 0}
        cluster.injector.signal(15)
        assert cluster.injector.wait(60) == 0
        assert [line["ok"] for line in cluster.lab.history("gone")] == [True, True]
        seam.close()
    finally:
        cluster.place.close()


def registered(cluster: Cluster, component: str) -> dict[str, int]:
    """Who is registered, as a probe is told."""
    entry = json.loads((cluster.lab.registry / f"{component}.json").read_text())
    return {"pid": entry["pid"], "start_ticks": entry["start_ticks"]}
