"""``python -m rlhf.serving.up``: the policy, served on a Ray node of its own, until standard input ends or SIGTERM comes.

Prints one line of JSON, ``{"url": ..., "node_s": ..., "serve_s": ..., "ready_s": ...}`` (seconds since the start), when all
ranks have met. The node ends with this process, however that ends.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlhf import ray_nodes
from rlhf.config import JobConfig, load_config
from rlhf.errors import EngineError
from rlhf.serving.config import ServingConfig, serving_config
from rlhf.serving.interface import require_all

PR_SET_PDEATHSIG = 1
NODE_READY_S = 60.0
NODE_END_S = 40.0
ADDRESS = ray_nodes.LOOPBACK
#: What Serve's proxy waits beyond `request_s`: the entry, which knows whom it waits for, answers first.
PROXY_GRACE_S = 10.0
HOST = "serving"


@contextmanager
def node(folder: Path, cpus: int) -> Iterator[str]:
    """A Ray node of one's own on the loopback; yields its address. Sets the environment that a driver of it needs, so it
    must come before Ray is imported. Raises InferenceEngineError when the installed versions lack what is needed.
    """
    os.environ.update(ray_nodes.environment(folder))
    ray_nodes.keep_to(ADDRESS)
    port = free_port()
    argv = ray_nodes.node_argv(folder / "n", ADDRESS, [HOST], port=port, cpus=cpus)
    with (folder / "node.log").open("wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log, preexec_fn=_end_with_parent)
    try:
        require_all()  # two seconds of imports, while the node starts
        ray_nodes.wait_ready(ADDRESS, [HOST], NODE_READY_S, port)
        yield f"{ADDRESS}:{port}"
    finally:
        process.terminate()
        try:
            process.wait(NODE_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def serve_on(address: str, port: int, request_s: float) -> Iterator[str]:
    """Serve on a cluster, its HTTP proxy on `port` of this node's address; yields the URL."""
    import ray
    from ray import serve
    from ray.serve.config import HTTPOptions

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    ray.init(address=address, log_to_driver=False, logging_level="ERROR", namespace="policy")
    try:
        options = HTTPOptions(host=ADDRESS, port=port, request_timeout_s=request_s + PROXY_GRACE_S)
        serve.start(proxy_location="HeadOnly", http_options=options)
        yield f"http://{ADDRESS}:{port}"
    finally:
        serve.shutdown()
        ray.shutdown()


def free_port() -> int:
    """A port of the loopback that nobody listens on now."""
    with socket.create_server((ADDRESS, 0)) as listener:
        return int(listener.getsockname()[1])


def run(config: JobConfig, serving: ServingConfig, port: int, cpus: int, tell: Callable[[dict[str, Any]], None]) -> None:
    """Serve until standard input ends; `tell` what is known when all ranks have met."""
    started = time.monotonic()
    times: dict[str, float] = {}

    def passed(what: str) -> None:
        times[what] = round(time.monotonic() - started, 2)

    folder = Path(tempfile.mkdtemp(prefix="s-", dir="/tmp"))
    try:
        with node(folder, cpus) as address:
            passed("node_s")
            with serve_on(address, port or free_port(), serving.request_s) as url:
                from rlhf.serving.application import build, deploy
                from rlhf.serving.client import ServedRolloutEngine

                passed("serve_s")
                deploy(build(config, serving), serving.deploy_s)
                ServedRolloutEngine(config, url).members(serving.request_s)
                passed("ready_s")
                tell({"url": url, **times})
                sys.stdin.read()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def standard_output() -> Callable[[dict[str, Any]], None]:
    """Keeps standard output for lines of JSON alone; what Ray would print there goes to standard error from now on."""
    kept = os.dup(1)
    os.dup2(2, 1)

    def tell(values: dict[str, Any]) -> None:
        os.write(kept, json.dumps(values).encode() + b"\n")

    return tell


def _end_with_parent() -> None:
    """In the child: SIGTERM, upon which the node ends its processes, when the parent dies."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _leave(number: int, _: object) -> None:
    sys.exit(128 + number)


def main() -> int:
    parser = argparse.ArgumentParser(prog="rlhf.serving.up", description="Serve the policy until standard input ends.")
    parser.add_argument("--config", type=Path, help="JSON of a JobConfig")
    parser.add_argument("--serving", type=json.loads, default={}, help="JSON of a ServingConfig")
    parser.add_argument("--port", type=int, default=0, help="of the HTTP proxy; 0: any free one")
    parser.add_argument("--cpus", type=int, default=os.cpu_count(), help="CPU that the Ray node offers")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, _leave)
    config = load_config(given.config) if given.config else JobConfig()
    try:
        run(config, serving_config(given.serving), given.port, given.cpus, standard_output())
    except (EngineError, ValueError, TimeoutError, KeyboardInterrupt) as error:
        sys.stderr.write(f"{error or 'interrupted'}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
