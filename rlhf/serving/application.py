"""From configuration to a running application, within a bound, or one sentence why not."""

from __future__ import annotations

import time

import ray
from ray import serve
from ray.serve.api import RunTarget
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview

from rlhf.config import JobConfig
from rlhf.errors import InferenceEngineError
from rlhf.serving.config import ServingConfig
from rlhf.serving.entry import Entry
from rlhf.serving.failures import sentence
from rlhf.serving.replica import PolicyRank

NAME = "policy"
POLL_S = 0.1
#: Nothing that a replica keeps must be saved; one that was lost is missed within a second.
REPLICA = {
    "num_replicas": 1,
    "max_constructor_retry_count": 1,
    "health_check_period_s": 1.0,
    "graceful_shutdown_timeout_s": 1.0,
    "graceful_shutdown_wait_loop_s": 0.1,
}


def build(config: JobConfig, serving: ServingConfig) -> serve.Application:
    """The entry and a deployment for each rank: so a rank can be addressed, and a replaced replica has the old one's place."""
    rank_options = {**REPLICA, "max_ongoing_requests": 1, "ray_actor_options": {"num_cpus": serving.cpus_per_rank}}
    ranks = [
        serve.deployment(PolicyRank).options(name=f"rank{rank}", **rank_options).bind(config, serving)
        for rank in range(serving.ranks)
    ]
    options = {**REPLICA, "ray_actor_options": {"num_cpus": serving.cpus_of_entry}}
    return as_entry(Entry).options(**options).bind(config, serving, *ranks)


def as_entry(kind: type) -> serve.Deployment:
    """A class as the deployment that HTTP requests reach. Raises InferenceEngineError unless its objects can be called."""
    if not any("__call__" in base.__dict__ for base in kind.__mro__):  # hasattr would find that the class can be called
        methods = ", ".join(name for name in vars(kind) if not name.startswith("_")) or "none"
        text = f"{kind.__name__} has no __call__, by which Serve calls an entry; its methods: {methods}"
        raise InferenceEngineError("InitializeError", text)
    return serve.deployment(kind)


def deploy(application: serve.Application, timeout_s: float, name: str = NAME, route: str = "/") -> None:
    """Until every replica runs. Raises InferenceEngineError (InitializeError), having taken the application away again, when
    a constructor fails, or after `timeout_s` with the deployments that wait and the processors they wait for.
    """
    target = RunTarget(application, name=name, route_prefix=route)
    serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
    deadline = time.monotonic() + timeout_s
    while (found := serve.status().applications[name]).status != ApplicationStatus.RUNNING:
        failed = found.status == ApplicationStatus.DEPLOY_FAILED
        if failed or time.monotonic() > deadline:
            said = _why(found) if failed else f"not ready within {timeout_s:g} s: {_waiting(found)}"
            serve.delete(name, _blocking=False)
            raise InferenceEngineError("InitializeError", said)
        time.sleep(POLL_S)


def _why(found: ApplicationStatusOverview) -> str:
    """What the constructor that failed has raised: the line Ray's traceback ends with."""
    told = [one.message for one in found.deployments.values() if one.message] or [found.message]
    return sentence(told[0])


def _waiting(found: ApplicationStatusOverview) -> str:
    waiting = [f"{name} is {one.status.value}" for name, one in found.deployments.items() if one.status.value != "HEALTHY"]
    total, free = (ask().get("CPU", 0.0) for ask in (ray.cluster_resources, ray.available_resources))
    return f"{', '.join(waiting) or found.status.value}; the cluster has {total:g} CPU, of which {free:g} are free"
