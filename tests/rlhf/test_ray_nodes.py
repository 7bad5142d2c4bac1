"""A cluster of bare Ray nodes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from adapters.native import free_ports
from rlhf import ray_nodes

pytestmark = pytest.mark.job

WAIT = """
import sys
from rlhf import ray_nodes
ray_nodes.keep_to("127.0.0.1")
ray_nodes.wait_ready("127.0.0.1", sys.argv[3].split(","), float(sys.argv[2]), int(sys.argv[1]))
"""


def _wait_ready(port: int, hosts: str, env: dict[str, str], timeout_s: float) -> str:
    """Empty when all hosts are there, else the last line of what was said."""
    argv = [sys.executable, "-c", WAIT, str(port), str(timeout_s), hosts]
    done = subprocess.run(argv, env={**os.environ, **env}, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


def _listening(pids: set[int]) -> set[str]:
    """Addresses, as the kernel writes them, on which processes listen."""
    inodes = set()
    for pid in pids:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            try:
                inodes.add(str(entry.readlink()).removeprefix("socket:[").removesuffix("]"))
            except OSError:
                continue
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    return {row[1].split(":")[0] for row in rows if row[3] == "0A" and row[9] in inodes}


def _tree(pid: int) -> set[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {pid}.union(*(_tree(int(child)) for child in children)) if children else {pid}


def test_two_nodes_join_listen_on_loopback_alone_and_end(scratch: Path) -> None:
    """A head and a further node make one cluster; no port of theirs is open to the outside, and who has another token is
    refused at once; SIGTERM ends all they started.
    """
    folder = scratch / "ray"
    folder.mkdir(mode=0o700)
    env, port = ray_nodes.environment(folder), free_ports(["ray"])["ray"]
    assert (folder / "token").stat().st_mode & 0o777 == 0o600
    with (scratch / "log").open("wb") as log:

        def start(name: str, join: str) -> subprocess.Popen[bytes]:
            argv = ray_nodes.node_argv(folder / name, "127.0.0.1", [name], join, port)
            return subprocess.Popen(argv, env={**os.environ, **env}, stdout=log, stderr=log)

        nodes = [start("control", "")]
        try:
            assert _wait_ready(port, "control", env, 60) == ""
            missing = _wait_ready(port, "control,trainers", env, 0.5)
            assert missing == "TimeoutError: no Ray node within 0s for trainers"
            nodes.append(start("trainers", "127.0.0.1"))
            assert _wait_ready(port, "control,trainers", env, 60) == ""
            (stranger := scratch / "stranger").mkdir()
            refused = _wait_ready(port, "control", ray_nodes.environment(stranger), 60)
            assert "AuthenticationError" in refused and "Authentication token is missing or incorrect" in refused
            pids = set.union(*(_tree(node.pid) for node in nodes))
            loopback = {"0100007F", "0000000000000000FFFF00000100007F"}
            assert _listening(pids) and _listening(pids) <= loopback
        finally:
            for node in reversed(nodes):
                node.terminate()
                node.wait(60)
    assert [pid for pid in pids if Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes()] == []
