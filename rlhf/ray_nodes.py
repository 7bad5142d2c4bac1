"""How Ray is started, one node a virtual host. The caller starts the commands given here, in its own place.

Ray is told to stay out of the way: no dashboard, autoscaler, client server or log monitor; a token on every connection;
no usage statistics; nothing prestarted; and health checks so slow that a host which is silent for an hour is still a host.
"""

from __future__ import annotations

import argparse
import os
import secrets
import sys
import time
from pathlib import Path

PORT = 6379
LOOPBACK = "127.0.0.1"
READY_POLL_S = 0.1
OBJECT_STORE_BYTES = 80 << 20
#: Seconds, times ten failures: longer than any time-out of the job.
HEALTH_CHECK_S = 600
SYSTEM_CONFIG = {
    "health_check_initial_delay_ms": HEALTH_CHECK_S * 1000,
    "health_check_period_ms": HEALTH_CHECK_S * 1000,
    "health_check_timeout_ms": HEALTH_CHECK_S * 1000,
    "health_check_failure_threshold": 10,
}


def keep_to(address: str) -> None:
    """Call before Ray is imported in a node or a driver. With 127.0.0.1 Ray listens on the loopback alone, but only if it is
    kept from resolving that to an address of the outer network; its own switch for that bears another system's name.
    """
    if address == LOOPBACK:
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"


def environment(folder: Path, *, metrics: bool = False) -> dict[str, str]:
    """What every Ray process and every driver needs in its environment; makes the token in ``folder`` (mode 0600).

    With ``metrics`` each node's agent serves its figures over HTTP, if the packages of Ray's own extra for that are there.
    """
    token = folder / "token"
    if not token.exists():
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_memory_monitor_refresh_ms": "0",
        "RAY_DEDUP_LOGS": "0",
        "RAY_COLOR_PREFIX": "0",
        "RAY_enable_metrics_collection": str(metrics).lower(),
        "RAY_prestart_worker_first_driver": "false",
        "RAY_num_prestart_python_workers": "0",
        "RAY_TMPDIR": str(folder),
        "PYTHONPATH": str(Path(__file__).resolve().parent.parent),
        **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), ""),
    }


def node_argv(folder: Path, address: str, hosts: list[str], join: str = "", port: int = PORT, cpus: int = 1) -> list[str]:
    """The command that is a node of the cluster, in the foreground, until ended by SIGTERM; the head unless it joins one.

    Needs `environment` (one token for the whole cluster).
    The node offers ``cpus`` CPU and ``host_<name>`` for each of ``hosts``. ``folder`` must be short (sockets lie in it).
    """
    argv = [sys.executable, "-m", "rlhf.ray_nodes", str(folder), address, ",".join(hosts), f"--port={port}", f"--cpus={cpus}"]
    return [*argv, f"--join={join}"] if join else argv


def wait_ready(address: str, hosts: list[str], timeout_s: float, port: int = PORT) -> None:
    """Until the cluster offers every ``host_<name>``; asked by a process of its own, which needs `environment`.

    Raises TimeoutError naming the hosts that are missing.
    """
    deadline, missing = time.monotonic() + timeout_s, hosts
    while time.monotonic() < deadline:
        try:
            offered = _offered(f"{address}:{port}", max(deadline - time.monotonic(), 0.1))
        except (OSError, RuntimeError):
            offered = set()
        missing = [name for name in hosts if f"host_{name}" not in offered]
        if not missing:
            return
        time.sleep(READY_POLL_S)
    raise TimeoutError(f"no Ray node within {timeout_s:.0f}s for {', '.join(missing)}")


def _offered(address: str, timeout_s: float) -> set[str]:
    """Resources of the nodes that are alive."""
    from ray._raylet import GcsClient  # type: ignore[attr-defined]

    nodes = GcsClient(address=address, cluster_id=None).get_all_node_info(timeout=timeout_s)
    alive = [node for node in nodes.values() if node.state == 0]
    return {name for node in alive for name in node.resources_total}


def run_node(folder: Path, address: str, hosts: list[str], join: str, port: int, cpus: int) -> int:
    """Be a node until one of its processes has ended; returns an exit code. SIGTERM ends it and them.

    ``ray start`` would also start an autoscaler, a client server and a dashboard: 280 MB and a second nobody here uses. So
    its own Node class is used directly; Ray's version is pinned exactly, and a test starts a node.
    """
    from ray._private.node import Node
    from ray._private.parameter import RayParams

    class BareNode(Node):  # type: ignore[misc]
        def start_api_server(self, **_: object) -> None:
            """No dashboard."""

    parameters = RayParams(
        node_ip_address=address,
        node_name=",".join(hosts),
        temp_dir=str(folder),
        num_cpus=cpus,
        resources={f"host_{name}": 100 for name in hosts},
        object_store_memory=OBJECT_STORE_BYTES,
        include_dashboard=False,
        include_log_monitor=False,
        no_monitor=True,
        **({"gcs_address": f"{join}:{port}"} if join else {"gcs_server_port": port, "_system_config": SYSTEM_CONFIG}),
    )
    node = BareNode(parameters, head=not join, shutdown_at_exit=True, spawn_reaper=False)
    while not (dead := node.dead_processes()):
        time.sleep(READY_POLL_S)
    sys.stderr.write(f"a process of the node has ended: {dead}\n")
    node.kill_all_processes(check_alive=False, allow_graceful=False)
    return 1


def main() -> int:
    parser = argparse.ArgumentParser(prog="rlhf.ray_nodes", description="One Ray node.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("address")
    parser.add_argument("hosts")
    parser.add_argument("--join", default="")
    parser.add_argument("--port", type=int, default=PORT)
    parser.add_argument("--cpus", type=int, default=1)
    given = parser.parse_args()
    keep_to(given.address)
    return run_node(given.folder, given.address, given.hosts.split(","), given.join, given.port, given.cpus)


if __name__ == "__main__":
    sys.exit(main())
