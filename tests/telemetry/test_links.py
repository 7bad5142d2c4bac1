"""Links: what the kernel knows of the connections between two addresses of the job."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from telemetry.links import LINK_METRICS, LinkSource
from telemetry.nametable import NameTable, links_of
from telemetry.registry import Registered
from telemetry.sources import Reading


def table(bind: str, target: str, dialled: str = "") -> dict:
    return {
        "host": {"train0": "trainers"},
        "bind": {"train0": bind},
        "listen": {"metaserver": {"weights": target}},
        "dial": {"train0>metaserver:weights": dialled or target},
    }


def source_for(folder, target: str, pid: int) -> LinkSource:
    (folder / "addresses.json").write_text(json.dumps(table("127.0.0.1", target)))
    source = LinkSource(NameTable(folder / "addresses.json"))
    source.follow({"train0": Registered("train0", "trainers", pid, 0)})
    return source


def told(readings: list[Reading]) -> dict[str, float | None]:
    ((host, component, metrics, values),) = readings
    assert (host, component) == ("trainers", "train0>metaserver:weights")
    return {name: value for (name, _), value in zip(metrics, values, strict=True)}


@pytest.mark.parametrize("mapped", [False, True])
def test_a_stuck_link_is_established_with_bytes_that_go_nowhere(tmp_path, mapped):
    """Bytes that arrive are counted exactly; when the callee reads no more, the queue stands and nothing is acknowledged."""
    listener = socket.create_server(("127.0.0.1", 0))
    source = source_for(tmp_path, f"127.0.0.1:{listener.getsockname()[1]}", os.getpid())
    try:
        assert told(list(source.read(1.0))) == {"link_connections": 0.0, "link_connecting": 0.0}
        caller = socket.socket(socket.AF_INET6 if mapped else socket.AF_INET)
        caller.connect((f"{'::ffff:' if mapped else ''}127.0.0.1", listener.getsockname()[1]))
        callee, _ = listener.accept()
        caller.sendall(b"x" * 1000)
        callee.sendall(b"y" * 300)
        assert caller.recv(1000, socket.MSG_PEEK)
        moved = told(list(source.read(2.0)))
        assert (moved["link_connections"], moved["link_receive_queue_bytes"]) == (1.0, 300.0)
        assert (moved["link_acked_bytes_per_s"], moved["link_received_bytes_per_s"]) == (pytest.approx(1000, abs=1), 300.0)
        assert 0 < moved["link_rtt_s"] < 1 and moved["link_silent_s"] < 60 and moved["link_retransmits_per_s"] == 0.0
        caller.settimeout(0)
        while True:  # until both kernels' buffers are full
            try:
                caller.send(b"x" * 65536)
            except BlockingIOError:
                break
        list(source.read(3.0))
        deadline = time.monotonic() + 30
        while (stuck := told(list(source.read(4.0 + time.monotonic()))))["link_acked_bytes_per_s"] != 0.0:
            assert time.monotonic() < deadline
        assert stuck["link_connections"] == 1.0 and stuck["link_send_queue_bytes"] > 0
        caller.close()
        callee.close()
    finally:
        source.close()
        listener.close()


_ELSEWHERE = """
import socket, subprocess, sys
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
listener = socket.create_server(("127.0.0.1", 45555))
caller = socket.create_connection(("127.0.0.1", 45555))
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.root
def test_a_link_of_another_network_is_seen_and_outlives_who_led_there(tmp_path):
    """A process of a virtual host leads into its network; its connections are read there, and no longer when it has gone."""
    there = subprocess.Popen(
        ["unshare", "--net", sys.executable, "-c", _ELSEWHERE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert there.stdout.readline() == "ready\n"
        before = Path("/proc/thread-self/ns/net").stat().st_ino
        source = source_for(tmp_path, "127.0.0.1:45555", there.pid)
        assert told(list(source.read(1.0)))["link_connections"] == 1.0
        assert Path("/proc/thread-self/ns/net").stat().st_ino == before
    finally:
        there.communicate("")
    assert told(list(source.read(2.0)))["link_connections"] == 0.0
    source.close()


def test_a_link_dialled_by_name_is_found_where_it_listens():
    """Host names are resolved by the table itself; a proxy's address stands for itself."""
    assert links_of(table("10.0.0.1", "10.0.0.2:80", "metaserver.job:80")) == links_of(table("10.0.0.1", "10.0.0.2:80"))
    assert list(links_of(table("127.0.0.1", "127.0.0.1:1", "127.0.0.1:2"))) == [("trainers", "127.0.0.1", "127.0.0.1:2")]


@pytest.mark.parametrize("text", ["{", "[]", '{"dial": {"a>b:c": "1.2.3.4:5"}}', "[" * 100_000])
def test_a_hostile_name_table_is_named_and_left_out(tmp_path, text, caplog):
    """No links are told, one sentence is, and the sampler goes on."""
    (tmp_path / "addresses.json").write_text(text)
    source = LinkSource(NameTable(tmp_path / "addresses.json"))
    source.follow({"train0": Registered("train0", "trainers", os.getpid(), 0)})
    assert list(source.read(1.0)) == list(source.read(2.0)) == []
    assert caplog.text.count("is no name table") == 1
    source.close()


def test_the_metrics_are_as_many_as_the_values():
    """Every name is told once."""
    assert len({name for name, _ in LINK_METRICS}) == len(LINK_METRICS) == 9
