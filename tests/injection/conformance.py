"""What every declared way of doing a fault to a link must show, whoever does it: run as a program where the links are.

    python -m tests.injection.conformance GROUND

GROUND is JSON: `place`, `link` and `bystander` (fields of a LiveLink), `proxy_api`, `brief` (one set of parameters a kind). The
link and its bystander join the same two hosts, on two ports. For each case one JSON line is printed:
`{"case": ..., "trouble": "", "absent": "", "s": ...}`; `absent` names what this machine has not.
"""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from pyroute2 import IPRoute

from injection import namespace
from injection.capability import BACKENDS, PLAIN_HOST, lack
from injection.fault import Context, RefusedError
from injection.measure import ask_here
from injection.preflight import absent_backends
from injection.proxy_client import ProxyClient
from injection.registry import FAULTS, make_fault
from injection.target import LiveLink
from storage.records import FaultKind
from tests.injection.ends import DATAGRAMS, IDLE_BYTES_PER_S, IDLE_S, RATE, Caller, Server, request

#: Kind -> parameters with which it is tried, wherever a backend declares that it can do them.
PARAMETERS: dict[str, list[dict[str, Any]]] = {
    "network-delay": [
        {"delay_ms": 40.0},
        {"delay_ms": 40.0, "jitter_ms": 10.0, "direction": "both"},
        {"delay_ms": 40.0, "jitter_ms": 5.0, "correlation_ratio": 0.5, "distribution": "normal", "direction": "backward"},
    ],
    "network-loss": [{"loss_ratio": 0.2}, {"loss_ratio": 0.2, "burst_packets": 5.0, "direction": "backward"}],
    "network-partition": [{}, {"direction": "backward", "interface": "eth0"}],
    "network-reset": [{}, {"direction": "backward"}],
    "network-bandwidth": [
        {"rate_bytes_per_s": RATE},
        {"rate_bytes_per_s": RATE, "direction": "both"},
        {"rate_bytes_per_s": RATE, "interface": "eth0"},
    ],
}


def cases(place: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Kind, backend, parameters: all that the table declares for a place."""
    return [
        (kind, backend, params)
        for kind, tried in PARAMETERS.items()
        for backend in BACKENDS.get((FaultKind(kind), place), ())
        for params in tried
        if not lack(FaultKind(kind), backend, params)
    ]


def name(kind: str, backend: str, params: dict[str, Any]) -> str:
    return " ".join([kind, backend, *(f"{key}={value}" for key, value in params.items())])


def ways(params: dict[str, Any], default: str) -> list[bool]:
    """The directions of a fault, as `backward`."""
    direction = params.get("direction", default)
    return [backward for backward, way in ((False, "forward"), (True, "backward")) if direction in (way, "both")]


def is_late(caller: Caller, params: dict[str, Any]) -> None:
    asked = len(ways(params, "forward")) * params["delay_ms"] / 1000
    off = len(ways(params, "forward")) * params.get("jitter_ms", 0.0) / 1000 * 3
    took = caller.round_trip_s()
    assert asked - off <= took <= asked + off + IDLE_S, took


def is_lossy(caller: Caller, params: dict[str, Any]) -> None:
    part, burst = params["loss_ratio"], params.get("burst_packets", 1.0)
    off = 4 * math.sqrt(DATAGRAMS * part * (1 - part) * (2 * burst - 1))
    for backward in (False, True):
        lost = caller.lost(backward)
        expected = part * DATAGRAMS if backward in ways(params, "forward") else 0
        assert abs(lost - expected) <= (off if expected else 0), (backward, lost)


def is_cut_off(caller: Caller, params: dict[str, Any]) -> None:
    for backward in (False, True):
        assert caller.lost(backward, 5) == (5 if backward in ways(params, "both") else 0)
    caller.standing.settimeout(0.3)
    for attempt in (caller.round_trip_s, lambda: caller.dial(0.3)):
        try:
            attempt()
        except TimeoutError:
            continue
        raise AssertionError("something came through")


def is_reset(caller: Caller, params: dict[str, Any]) -> None:
    idle = [] if caller.relayed else [lambda: caller.standing.recv(1)]  # a proxy waits for data
    for attempt in (*idle, caller.round_trip_s, caller.round_trip_s):
        try:
            attempt()
        except (ConnectionResetError, ConnectionAbortedError, BrokenPipeError):
            break
    else:
        raise AssertionError("the standing connection was not reset")
    in_vain = TimeoutError if ways(params, "forward") == [True] and not caller.relayed else ConnectionRefusedError
    try:
        with caller.dial(0.5) as made:  # a proxy accepts before it resets
            request(made, 1)
    except (in_vain, ConnectionResetError):
        return
    raise AssertionError("a dialler was let in")


def is_narrow(caller: Caller, params: dict[str, Any]) -> None:
    assert caller.carried_bytes_per_s(int(RATE)) < 1.5 * RATE


EFFECT: dict[str, Callable[[Caller, dict[str, Any]], None]] = {
    "network-delay": is_late,
    "network-loss": is_lossy,
    "network-partition": is_cut_off,
    "network-reset": is_reset,
    "network-bandwidth": is_narrow,
}


class Suite:
    """One ground: the link, its bystander, and the promises."""

    def __init__(self, ground: dict[str, Any]) -> None:
        self.place, self._proxy_api = ground["place"], ground["proxy_api"]
        links = [LiveLink(**ground[one]) for one in ("link", "bystander")]
        if self.place != PLAIN_HOST:
            for one in links:
                Server(one.dst_host, one.dst_address, one.dst_port)
        self.link = links[0]
        self.caller, self.bystander = (Caller(one) for one in links)

    def fault(self, kind: str, backend: str, params: dict[str, Any]) -> Any:
        made = make_fault(kind, params, Context(self.link, backend, ask_here, self._proxy_api))
        made.arm()
        return made

    def keeps_its_promises(self, kind: str, backend: str, params: dict[str, Any]) -> None:
        """Armed changes nothing; applied is seen and proved, and the bystander is spared; reverted, twice, it is gone."""
        before = self.residue()
        fault = self.fault(kind, backend, params)
        self.caller.is_free()
        undo = fault.undo()
        try:
            fault.apply()
            EFFECT[kind](self.caller, params)
            assert self.bystander.round_trip_s() < IDLE_S
            assert self.bystander.carried_bytes_per_s(int(RATE)) > IDLE_BYTES_PER_S
            with self.in_use():
                found = fault.verify()
            assert found.ok, found
        finally:
            fault.revert(undo)
            fault.revert(undo)
        found = fault.gone(undo, ask_here)
        assert found.ok, found
        self.caller.is_free()
        assert self.residue() == before

    def survives_nobody(self, kind: str, backend: str, params: dict[str, Any]) -> None:
        """The one who did it is killed: undone from the record, or by the kernel before, nothing is left."""
        before = self.residue()
        spec = json.dumps([kind, backend, params, asdict(self.link), self._proxy_api])
        doer = subprocess.Popen([sys.executable, "-c", DOER, spec], stdout=subprocess.PIPE, text=True)
        undo = json.loads(doer.stdout.readline())
        assert doer.stdout.readline() == "applied\n"
        EFFECT[kind](self.caller, params)
        doer.send_signal(signal.SIGKILL)
        doer.wait()
        FAULTS[FaultKind(kind)].revert(undo)
        assert FAULTS[FaultKind(kind)].gone(undo, ask_here).ok
        self.caller.is_free()
        assert self.residue() == before

    def add_up(self, backend: str) -> None:
        """Two delays and one loss on one link: delays add up; each goes alone and leaves the others."""
        before, delay = self.residue(), {"delay_ms": 40.0}
        faults = [self.fault("network-delay", backend, one) for one in (delay, delay)]
        faults.append(self.fault("network-loss", "nfqueue", {"loss_ratio": 0.2}))
        undos = [fault.undo() for fault in faults]
        for fault in faults[:2]:
            fault.apply()
        is_late(self.caller, {"delay_ms": 80.0})
        faults[2].apply()
        is_lossy(self.caller, {"loss_ratio": 0.2})
        faults[2].revert(undos[2])
        faults[0].revert(undos[0])
        is_late(self.caller, delay)
        faults[1].revert(undos[1])
        self.caller.is_free()
        assert self.residue() == before

    def within_one_host(self) -> None:
        """Between two ports of one host, both ways: the same promises."""
        here = {"src_host": self.link.src_host, "dst_host": self.link.src_host}
        outer = self.link, self.caller
        self.link = LiveLink("within", src_address="127.0.0.1", dst_address="127.0.0.1", dst_port=9000, **here)
        Server(self.link.dst_host, self.link.dst_address, self.link.dst_port)
        self.caller = Caller(self.link)
        self.keeps_its_promises("network-delay", "nfqueue", {"delay_ms": 40.0, "direction": "both"})
        self.link, self.caller = outer

    def spares_other_devices(self) -> None:
        """What is cut off by a device that the link does not take cuts nothing off; a device that is not there is refused."""
        fault = self.fault("network-partition", "nfqueue", {"interface": "lo"})
        fault.apply()
        self.caller.is_free()
        fault.revert(fault.undo())
        for kind, backend, params in (
            ("network-partition", "nfqueue", {}),
            ("network-bandwidth", "htb", {"rate_bytes_per_s": RATE}),
        ):
            with pytest.raises(RefusedError, match="there is no device nowhere"):
                self.fault(kind, backend, {**params, "interface": "nowhere"})

    def holds_once(self) -> None:
        """netem: a second delay on the same link is refused by name, and the first stays."""
        first, second = (self.fault("network-delay", "netem", {"delay_ms": 40.0}) for _ in range(2))
        first.apply()
        try:
            second.apply()
        except RefusedError:
            second.revert(second.undo())
            is_late(self.caller, {"delay_ms": 40.0})
            first.revert(first.undo())
            self.caller.is_free()
            return
        raise AssertionError("not refused")

    def last_counts(self) -> None:
        """Two bandwidths on one link: the last applied counts; when it goes, the one before; and another link has its own."""
        before = self.residue()
        wide, narrow = (self.fault("network-bandwidth", "htb", {"rate_bytes_per_s": rate}) for rate in (3 * RATE, RATE))
        self.link, other = self.bystander.link, self.link
        beside = self.fault("network-bandwidth", "htb", {"rate_bytes_per_s": RATE})
        self.link = other
        for fault in (wide, narrow, beside):
            fault.apply()
        is_narrow(self.caller, {})
        is_narrow(self.bystander, {})
        narrow.revert(narrow.undo())
        assert 1.5 * RATE < self.caller.carried_bytes_per_s(int(2 * RATE)) < 4 * RATE
        wide.revert(wide.undo())
        self.caller.is_free()
        is_narrow(self.bystander, {})
        beside.revert(beside.undo())
        self.bystander.is_free()
        assert self.residue() == before

    def leaves_strange_queues(self) -> None:
        """A root queue that somebody else put up between arming and acting is a refusal, and stays as it is."""
        fault = self.fault("network-bandwidth", "htb", {"rate_bytes_per_s": RATE})
        namespace.within(self.link.src_host, partial(_strange_queue, stands=True))
        before = self.residue()
        with pytest.raises(RefusedError, match="cannot be narrowed"):
            fault.apply()
        fault.revert(fault.undo())
        assert self.residue() == before
        namespace.within(self.link.src_host, partial(_strange_queue, stands=False))
        self.caller.is_free()

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """The link carries requests, as a job's does while a probe looks at it."""
        over = threading.Event()

        def use() -> None:
            while not over.wait(0.02):
                with suppress(OSError):
                    Caller(self.link).carried_bytes_per_s(int(RATE))

        user = threading.Thread(target=use, daemon=True)
        user.start()
        yield
        over.set()
        user.join(20)

    def residue(self) -> dict[str, Any]:
        """What stands in the networks concerned, or on the proxies, and which helper processes run."""
        helpers = [child.pid for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
        if self.place == PLAIN_HOST:
            clients = [ProxyClient(self._proxy_api, one.link.name) for one in (self.caller, self.bystander)]
            return {"helpers": helpers, "toxics": [client.toxic_names() for client in clients]}
        hosts = {self.link.src_host, self.link.dst_host}
        return {"helpers": helpers, **{host: namespace.within(host, _network) for host in hosts}}


def _strange_queue(*, stands: bool) -> None:
    with IPRoute() as route:
        where = {"index": route.link_lookup(ifname="eth0")[0], "handle": 0x10000}
        if stands:
            route.tc("add", "htb", **where, default=0)
        else:
            route.tc("del", **where, parent=0xFFFFFFFF)


def _network() -> dict[str, Any]:
    with IPRoute() as route:
        queues = [(one["index"], one.get_attr("TCA_KIND"), one["handle"]) for one in route.get_qdiscs()]
        devices = [one.get_attr("IFLA_IFNAME") for one in route.get_links()]
    # Of the thread's own network, which `/proc/net` is not.
    waiting = Path("/proc/thread-self/net/netfilter/nfnetlink_queue")
    return {"queues": queues, "devices": devices, "packets": waiting.read_text() if waiting.exists() else ""}


DOER = """
import json, sys, time
from injection.fault import Context
from injection.measure import ask_here
from injection.registry import make_fault
from injection.target import LiveLink
kind, backend, params, link, api = json.loads(sys.argv[1])
fault = make_fault(kind, params, Context(LiveLink(**link), backend, ask_here, api))
fault.arm()
print(json.dumps(fault.undo()), flush=True)
fault.apply()
print("applied", flush=True)
time.sleep(600)
"""


def todo(suite: Suite, brief: bool) -> Iterator[tuple[str, str, Callable[[], None]]]:
    """What to try: case, the backend it needs, and how."""
    for kind, backend, params in cases(suite.place):
        first = params == PARAMETERS[kind][0]
        if first or not brief:
            yield name(kind, backend, params), backend, partial(suite.keeps_its_promises, kind, backend, params)
        if first:
            yield f"killed: {name(kind, backend, params)}", backend, partial(suite.survives_nobody, kind, backend, params)
    if suite.place != PLAIN_HOST and not brief:
        yield "composed: delays and loss", "nfqueue", partial(suite.add_up, "nfqueue")
        yield "within one host", "nfqueue", suite.within_one_host
        yield "another device", "nfqueue", suite.spares_other_devices
        yield "composed: delays", "netem", suite.holds_once
        yield "composed: bandwidths", "htb", suite.last_counts
        yield "another's queue", "htb", suite.leaves_strange_queues


def main() -> None:
    ground = json.loads(sys.argv[1])
    suite = Suite(ground)
    absent = absent_backends() if suite.place != PLAIN_HOST else frozenset()
    for case, backend, act in todo(suite, ground["brief"]):
        began, line = time.monotonic(), {"case": case, "trouble": "", "absent": ""}
        if backend in absent:
            line["absent"] = f"this kernel has no {backend}"
        else:
            try:
                act()
            except Exception:
                line["trouble"] = traceback.format_exc()
        print(json.dumps({**line, "s": round(time.monotonic() - began, 2)}), flush=True)


if __name__ == "__main__":
    main()
