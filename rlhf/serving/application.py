"""From configuration to a running application, within a bound, or one sentence why not."""

from __future__ import annotations

import time

import ray
from ray import serve
from ray.serve.api import RunTarget
from ray.serve.handle import DeploymentHandle
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


def rank_applications(config: JobConfig, serving: ServingConfig) -> list[serve.Application]:
    """A deployment for each rank: so a rank can be addressed, and a replaced replica has the old one's place."""
    actor = {"num_cpus": serving.cpus_per_rank, **({"resources": {f"host_{serving.host}": 0.001}} if serving.host else {})}
    options = {**REPLICA, "max_ongoing_requests": 1, "ray_actor_options": actor}
    return [
        serve.deployment(PolicyRank).options(name=f"rank{rank}", **options).bind(config, serving)
        for rank in range(serving.ranks)
    ]


def build(config: JobConfig, serving: ServingConfig) -> serve.Application:
    """The ranks with the entry as a deployment before them."""
    options = {**REPLICA, "ray_actor_options": {"num_cpus": serving.cpus_of_entry}}
    return as_entry(Entry).options(**options).bind(config, serving, *rank_applications(config, serving))


def as_entry(kind: type) -> serve.Deployment:
    """A class as the deployment that HTTP requests reach. Raises InferenceEngineError unless its objects can be called."""
    if not any("__call__" in base.__dict__ for base in kind.__mro__):  # hasattr would find that the class can be called
        methods = ", ".join(name for name in vars(kind) if not name.startswith("_")) or "none"
        text = f"{kind.__name__} has no __call__, by which Serve calls an entry; its methods: {methods}"
        raise InferenceEngineError("InitializeError", text)
    return serve.deployment(kind)


def deploy(application: serve.Application, timeout_s: float, name: str = NAME, route: str = "/") -> None:
    """An application that is reached by HTTP, until every replica runs. Raises as `deploy_all` does."""
    deploy_all([RunTarget(application, name=name, route_prefix=route)], timeout_s)


def deploy_ranks(config: JobConfig, serving: ServingConfig, owner: str) -> list[DeploymentHandle]:
    """The ranks alone, for an entry in the calling process; a handle of each. Raises as `deploy_all` does.

    Serve outlives who started it: ranks that `owner` left here are taken up with the weights they hold, a stranger's end.
    """
    applications = {f"{owner}-rank{rank}": one for rank, one in enumerate(rank_applications(config, serving))}
    found = serve.status().applications
    for stranger in found.keys() - applications.keys():
        serve.delete(stranger)
    if all(name in found and found[name].status == ApplicationStatus.RUNNING for name in applications):
        return [serve.get_app_handle(name) for name in applications]
    return deploy_all([RunTarget(one, name=name, route_prefix=None) for name, one in applications.items()], serving.deploy_s)


def deploy_all(targets: list[RunTarget], timeout_s: float) -> list[DeploymentHandle]:
    """Until every replica runs. Raises InferenceEngineError (InitializeError), having taken the applications away again, when
    a constructor fails, or after `timeout_s` with the deployments that wait and the processors they wait for.
    """
    handles: list[DeploymentHandle] = serve.run_many(
        targets, wait_for_ingress_deployment_creation=False, wait_for_applications_running=False
    )
    deadline = time.monotonic() + timeout_s
    while late := [one for one in _found(targets) if one.status != ApplicationStatus.RUNNING]:
        failed = [one for one in late if one.status == ApplicationStatus.DEPLOY_FAILED]
        if failed or time.monotonic() > deadline:
            said = _why(failed[0]) if failed else f"not ready within {timeout_s:g} s: {_waiting(late)}"
            for target in targets:
                serve.delete(target.name, _blocking=False)
            raise InferenceEngineError("InitializeError", said)
        time.sleep(POLL_S)
    return handles


def _found(targets: list[RunTarget]) -> list[ApplicationStatusOverview]:
    applications = serve.status().applications
    return [applications[target.name] for target in targets]


def _why(found: ApplicationStatusOverview) -> str:
    """What the constructor that failed has raised: the line Ray's traceback ends with."""
    told = [one.message for one in found.deployments.values() if one.message] or [found.message]
    return sentence(told[0])


def _waiting(late: list[ApplicationStatusOverview]) -> str:
    deployments = {name: one for found in late for name, one in found.deployments.items()}
    waiting = [f"{name} is {one.status.value}" for name, one in deployments.items() if one.status.value != "HEALTHY"]
    total, free = (ask().get("CPU", 0.0) for ask in (ray.cluster_resources, ray.available_resources))
    said = ", ".join(waiting) or late[0].status.value
    return f"{said}; the cluster has {total:g} CPU, of which {free:g} are free"
