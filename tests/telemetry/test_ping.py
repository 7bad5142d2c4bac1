"""Pings of links: first packets that the callee's kernel answers, in a network of their own."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from telemetry.nametable import NameTable
from telemetry.ping import PING_METRICS, REMEMBERED, PingSource, _Host, checksum
from telemetry.registry import Registered

ROOT = Path(__file__).resolve().parents[2]

#: In a network with two addresses on the loopback: a link from one to the other, healthy, cut, healed, refused.
_IN_A_NETWORK = """
import json, os, socket, sys, time
from pathlib import Path
from injection import netfilter
from telemetry.nametable import NameTable
from telemetry.ping import PingSource
from telemetry.registry import Registered
table, told = Path(sys.argv[1]), []
callee = socket.create_server(("10.9.0.2", 0), backlog=1)
callee.setblocking(False)
port = callee.getsockname()[1]
where = f"10.9.0.2:{port}"
table.write_text(json.dumps({"host": {"train0": "trainers"}, "bind": {"train0": "10.9.0.1"},
    "listen": {"metaserver": {"weights": where}}, "dial": {"train0>metaserver:weights": where}}))
source = PingSource(NameTable(table))
source.follow({"train0": Registered("train0", "trainers", os.getpid(), 0)})
def read_until(good):
    for _ in range(600):
        told[:] = list(source.read(0.0))
        if good(told[0][3]):
            return told[0]
        time.sleep(0.05)
    raise SystemExit(f"never so: {told}")
healthy = read_until(lambda values: values[0] is not None)
for _ in range(200):
    list(source.read(0.0))
try:
    callee.accept()
    raise SystemExit("the callee was told")
except BlockingIOError:
    pass
caller = socket.create_connection(("10.9.0.2", port), 30)  # a place in the callee's queue is free
flow = netfilter.Flow("10.9.0.1", "10.9.0.2", port)
cut = netfilter.open_socket()
netfilter.put_up(cut, "cut", [netfilter.of_flow(flow) + netfilter.drop()])
lost = read_until(lambda values: values[1] > 1.2)
cut.close()
healed = read_until(lambda values: values[0] is not None)
callee.close()
refused = read_until(lambda values: values[2] == 1.0)
source.close()
print(json.dumps([healthy, lost, healed, refused]))
"""


@pytest.mark.root
def test_a_link_is_asked_past_its_callees_program_and_suffers_what_the_link_suffers(tmp_path):
    """Answered in time; the callee accepts nothing; what drops the link's packets drops the ping; a closed port refuses it."""
    setup = "ip link set lo up; ip address add 10.9.0.1/32 dev lo; ip address add 10.9.0.2/32 dev lo"
    argv = ["unshare", "--net", "sh", "-ec", f'{setup}; exec "$0" "$@"', sys.executable, "-c", _IN_A_NETWORK]
    done = subprocess.run([*argv, str(tmp_path / "addresses.json")], cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    healthy, lost, healed, refused = json.loads(done.stdout)
    metrics = [list(metric) for metric in PING_METRICS]
    assert all(row[:3] == ["trainers", "train0>metaserver:weights", metrics] for row in (healthy, lost, healed, refused))
    assert 0 < healthy[3][0] < 30 and healthy[3][1:] == [0.0, 0.0]
    assert lost[3][0] is None and lost[3][1] > 1.2 and lost[3][2] == 0.0
    assert 0 < healed[3][0] < 30 and healed[3][2] == 0.0
    assert refused[3][2] == 1.0


class Recorded:
    """A prober whose answers are what the test says."""

    def __init__(self) -> None:
        self.asked, self.coming = 0, []

    def ask(self, source, target):
        self.asked += 1
        return self.asked

    def answers(self):
        coming, self.coming = self.coming, []
        return iter(coming)


def test_one_question_at_a_time_and_late_answers_count(monkeypatch):
    """While one is out no other is sent for a second; an answer, however late, is the round trip of its own question."""
    now = [100.0]
    monkeypatch.setattr("telemetry.ping.time.time", lambda: now[0])
    prober = Recorded()
    host = _Host(prober)

    def beat(at: float, *answers):
        now[0], prober.coming = at, list(answers)
        ((_, values),) = host.ask({"a>b:rpc": ("10.0.0.1", "10.0.0.2:1")}, at)
        return values

    assert beat(100.0) == [None, 0.0, 0.0] and prober.asked == 1
    assert beat(100.5) == [None, 0.5, 0.0] and prober.asked == 1
    assert beat(101.0) == [None, 1.0, 0.0] and prober.asked == 2
    assert beat(101.6, (1, 101.5, False)) == [1.5, pytest.approx(0.6), 0.0] and prober.asked == 2
    assert beat(102.0, (2, 101.9, True), (2, 101.9, True), (77, 1.0, False)) == [pytest.approx(0.9), 0.0, 1.0]
    assert prober.asked == 3
    for second in range(3 * REMEMBERED):
        values = beat(103.0 + second)
    assert values[1] == pytest.approx(103.0 + 3 * REMEMBERED - 1 - 102.0)
    assert len(host._links["a>b:rpc"].waiting) == REMEMBERED


def test_a_relayed_link_is_not_asked(tmp_path):
    """Where every link goes through a relay nothing is sent, and that is said."""
    table = {
        "host": {"train0": "h", "train1": "h"},
        "bind": {"train0": "127.0.0.1", "train1": "127.0.0.1"},
        "listen": {"metaserver": {"weights": "127.0.0.1:80"}},
        "dial": {"train0>metaserver:weights": "127.0.0.1:4001", "train1>metaserver:weights": "store.job:80"},
    }
    path = tmp_path / "addresses.json"
    path.write_text(json.dumps(table))
    names = NameTable(path)
    assert len(names.links()) == 2 and names.relayed() == {"train0>metaserver:weights"}
    del table["dial"]["train1>metaserver:weights"]
    path.write_text(json.dumps(table))
    source = PingSource(NameTable(path))
    source._hosts = {"h": _Host(Recorded())}
    assert list(source.read(1.0)) == [] and source.lacks == "every link goes through a relay"


def test_without_the_right_nothing_is_told(tmp_path, monkeypatch):
    """Raw sockets refused: no rows, and the reason."""
    monkeypatch.setattr("telemetry.ping.Prober", lambda: (_ for _ in ()).throw(PermissionError(1, "not allowed")))
    source = PingSource(NameTable(tmp_path / "none"))
    source.follow({"train0": Registered("train0", "h", os.getpid(), 0)})
    assert list(source.read(1.0)) == [] and source.lacks == "raw sockets are not allowed here"
    source.close()


def test_a_checksum_makes_the_sum_come_out():
    """With its checksum in place a segment sums to all ones: 0 when summed again."""
    segment = bytearray(struct.pack("!HHIIBBHHH", 1, 2, 0xFFFFFFFF, 4, 0x50, 2, 1024, 0, 0))
    struct.pack_into("!H", segment, 16, checksum(segment))
    assert checksum(segment) == 0
