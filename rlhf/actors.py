"""Where Ray comes in: it places one thin actor on each host of the job, and the actor has engines forked there.

The actor imports no torch. The engine is a child of a child of it, so its real exit status is known; Ray tells no signal.
One actor a host, not one a worker: each costs a Ray worker process of 60 MB and a third of a second of a core.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ray

from rlhf.host import Host
from rlhf.links import name_table
from rlhf.ray_nodes import wait_ready

#: What is asked of Ray, recorded with every job. Nothing is restarted behind the job's back; an actor that waits is not stuck.
ACTOR = {"num_cpus": 0, "max_restarts": 0, "max_task_retries": 0, "max_concurrency": 4}

#: How long the nodes may take to come up, s: start-up is compute and does not scale.
NODES_S = 60.0


def connect(address: str, job_dir: Path) -> None:
    """Wait for the nodes, join as the driver, write ``ray.json``. Raises TimeoutError naming the hosts that do not come up."""
    head, _, port = address.rpartition(":")
    wait_ready(head, sorted(set(name_table()["host"].values())), NODES_S, int(port))
    ray.init(address=address, log_to_driver=False, logging_level="ERROR", namespace=job_dir.parent.name)
    record = {"version": ray.__version__, "address": address, "actor": ACTOR, "log_to_driver": False}
    nodes = [{"address": node["NodeManagerAddress"], "resources": node["Resources"]} for node in ray.nodes()]
    (job_dir / "ray.json").write_text(json.dumps({**record, "nodes": nodes}, indent=2) + "\n")


class RemoteHost:
    """The same calls as a Host has, answered by the actor on the Ray node that has the resource ``host_<name>``."""

    def __init__(self, name: str, job_dir: str, preload: str, environment: dict[str, str]):
        placed = ray.remote(Host).options(resources={f"host_{name}": 0.001}, **ACTOR)
        self._actor = placed.remote(job_dir, preload, environment)

    def start(self, component: str) -> None:
        ray.get(self._actor.start.remote(component))

    def engines(self) -> dict[str, dict[str, Any]]:
        answer: dict[str, dict[str, Any]] = ray.get(self._actor.engines.remote())
        return answer

    def stop(self, components: list[str]) -> dict[str, int | None]:
        answer: dict[str, int | None] = ray.get(self._actor.stop.remote(components))
        return answer

    def close(self) -> None:
        ray.get(self._actor.close.remote())
        ray.kill(self._actor)
