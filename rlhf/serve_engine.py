"""What a worker process runs: its log, its registration, its server. One function for all but controller and scheduler.

What answers a worker's calls is imported by who has an engine alone: it takes torch along, 150 MB and a second of a core.
"""

from __future__ import annotations

import logging
import os
import random
import socket
import sys
from pathlib import Path

import psutil

from rlhf import beats, seam
from rlhf.config import JobConfig, load_config
from rlhf.links import listen, listen_address, options_of
from rlhf.logs import open_log
from rlhf.ports import PORT_TAKEN
from rlhf.registry import register
from rlhf.stats import StatsTracker
from rlhf.topology import role_and_rank
from storage.records import Role

logger = logging.getLogger(__name__)

#: What a component without an engine listens for.
PURPOSE_OF = {Role.METASERVER: "weights", Role.REWARD: "reward", Role.SERVING: "generate"}


def main(component: str, job_dir: Path) -> None:
    """Be ``component`` of the job in ``job_dir`` until ended."""
    os.environ["JOB_DIR"] = str(job_dir)
    open_log(component, job_dir / "logs" / f"{component}.log")
    seam.announce_as(component)
    config = load_config(job_dir / "config.json")
    role, rank = role_and_rank(component)
    random.seed(config.seed * 1000 + rank)
    listener = _listen(component, PURPOSE_OF.get(role, "rpc"))
    logger.info("listening on %s:%d, %s", *listener.getsockname(), options_of(listener))
    stats = StatsTracker(job_dir / "stats" / f"{component}.jsonl", component)
    if config.posture.heartbeats:
        beats.start(component, config, stats)
    if role == Role.SERVING:
        from rlhf.serving.component import serve_component

        serve_component(component, config, listener, job_dir)
        return
    register(component)
    if role in (Role.METASERVER, Role.REWARD):
        _serve_store(role, listener, stats)
    else:
        _serve_worker(component, config, listener, stats)


def _listen(component: str, purpose: str) -> socket.socket:
    """The listener; where somebody else listens already, one line and an exit code that says so."""
    try:
        return listen(component, purpose)
    except OSError as error:
        if error.errno != PORT_TAKEN:
            raise
        logger.error("%s", error.strerror)  # noqa: TRY400 - one line, which is passed on
        sys.exit(PORT_TAKEN)


def _serve_store(role: str, listener: socket.socket, stats: StatsTracker) -> None:
    from rlhf import metaserver, reward

    app = metaserver.MetaServer(stats).app() if role == "metaserver" else reward.app()
    metaserver.serve_forever(app, listener)


def _serve_worker(component: str, config: JobConfig, listener: socket.socket, stats: StatsTracker) -> None:
    from rlhf.dispatch import Dispatch
    from rlhf.rpc_server import RpcServer

    os.environ["GLOO_SOCKET_IFNAME"] = interface_of(listen_address(component, "rpc")[0])
    dispatch = Dispatch(component, config, stats)
    RpcServer(listener, config.timeout_s("body_read"), dispatch.serve, lambda: dispatch.initialized).serve_forever()


def interface_of(address: str) -> str:
    """The network interface that carries an address of this host (any 127.x.y.z is the loopback's)."""
    if address.startswith("127."):
        return "lo"
    for name, addresses in psutil.net_if_addrs().items():
        if any(entry.address == address for entry in addresses):
            return name
    raise LookupError(f"no interface of this host has the address {address}")
