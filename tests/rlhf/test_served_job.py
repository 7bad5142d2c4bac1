"""The policy on Ray Serve as the rollout engine of a job: one Ray node on the loopback for all tests here."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import requests

from adapters.native import free_ports
from rlhf import links, ray_nodes
from rlhf.config import HARDENED, JobConfig, Posture
from rlhf.registry import registered
from rlhf.serving.config import ServingConfig
from rlhf.topology import components
from tests.rlhf.job_folder import Hold, JobFolder

pytestmark = [pytest.mark.job, pytest.mark.timeout(600)]

WORKER = JobConfig(steps=3, train_workers=2, rollout_workers=2, prompts_per_step=4, samples_per_prompt=4)
SERVED = replace(WORKER, rollout_engine="served", rollout_workers=1)
ENDS_S = 120

Cluster = tuple[str, dict[str, str], psutil.Process]


@pytest.fixture(scope="module")
def ray_node() -> Iterator[Cluster]:
    """Address and environment of a node of one CPU, and its process."""
    folder = Path(tempfile.mkdtemp(prefix="s-", dir="/tmp"))
    env, port = ray_nodes.environment(folder), free_ports(["ray"])["ray"]
    argv = ray_nodes.node_argv(folder, ray_nodes.LOOPBACK, ["localhost"], port=port)
    with (folder / "node.log").open("wb") as log:
        node = subprocess.Popen(argv, env={**os.environ, **env}, stdout=log, stderr=log)
    yield f"{ray_nodes.LOOPBACK}:{port}", env, psutil.Process(node.pid)
    node.terminate()
    node.wait(60)
    shutil.rmtree(folder, ignore_errors=True)


def _run(folder: JobFolder, cluster: Cluster | None, **env: str) -> int:
    """The job from start to end, its scheduler's included; the exit code."""
    address, of_ray, _ = cluster or ("", {}, None)
    folder.start("rlhf.scheduler", *(("--ray", address) if address else ()), **of_ray)
    code = folder.start("rlhf.job", **env).wait(200)
    scheduler = folder.processes["rlhf.scheduler"]
    scheduler.terminate()
    assert scheduler.wait(60) == 0, folder.log("scheduler")
    assert folder.living() == []
    return code


def _serving_processes(cluster: Cluster) -> list[psutil.Process]:
    """Serve's own, among the node's."""
    found = []
    for process in cluster[2].children(recursive=True):
        try:
            found += [process] if "Serve" in " ".join(process.cmdline()) else []
        except psutil.NoSuchProcess:
            continue
    return found


def _listening() -> set[str]:
    """Addresses at which any process of these tests listens: Ray's, Serve's, the ranks' meeting points, and the job's own."""
    tree = psutil.Process().children(recursive=True)
    sockets = [one for process in tree for one in process.net_connections("inet")]
    return {one.laddr.ip for one in sockets if one.status == psutil.CONN_LISTEN}


def _gone(cluster: Cluster) -> bool:
    deadline = time.monotonic() + ENDS_S
    while found := _serving_processes(cluster):
        if time.monotonic() > deadline:
            raise AssertionError([one.cmdline() for one in found])
        time.sleep(0.1)
    return True


def test_a_served_job_is_the_job_of_its_ranks(job_folder: Callable[[JobConfig], JobFolder], ray_node: Cluster) -> None:
    """Two ranks behind one rollout worker give exactly the rewards and losses of two workers, step by step, whatever the ports;
    nothing of the whole job listens to the outside; and the service ends with the job.
    """
    folder, heard = job_folder(SERVED), set[str]()
    hold = Hold(folder, "rollout", 1, lambda: heard.update(_listening()))
    code = _run(folder, ray_node, STAGE_SOCKET=str(hold.path), STAGE_DEADLINE_S="60")
    assert code == 0, folder.log("controller") + folder.log("serving")
    assert heard and heard <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
    told = {name: folder.stats("controller", name) for name in ("reward", "loss", "kl", "grad_norm")}
    assert folder.registration("serving")["ports"] == {"generate": links.listen_address("serving", "generate")[1]}
    assert "the ranks have met: rank 0 of 2 on cpu" in folder.log("serving")
    assert folder.log("serving").count("POST /generate 200") == SERVED.steps
    assert folder.stats("rollout0", "weights_version")[-1] == SERVED.steps - 1
    assert all("ERROR" not in folder.log(name) for name in components(SERVED))
    assert _gone(ray_node)
    shutil.rmtree(folder.path)
    same = job_folder(replace(WORKER, port_strategy="auto"))
    assert _run(same, None) == 0
    assert told == {name: same.stats("controller", name) for name in told}
    assert len(told["reward"]) == WORKER.steps


def _lose(folder: JobFolder, cluster: Cluster, pid: Callable[[], int]) -> int:
    """Kill a process while the job is held entering a rollout; the exit code."""
    hold = Hold(folder, "rollout", 1, lambda: os.kill(pid(), signal.SIGKILL))
    return _run(folder, cluster, STAGE_SOCKET=str(hold.path), STAGE_DEADLINE_S="60")


def test_a_lost_rank_is_a_rollout_error(job_folder: Callable[[JobConfig], JobFolder], ray_node: Cluster) -> None:
    """kill -9 of one replica fails the request that meets its loss, with a reason, at the rollout worker that made it."""
    folder = job_folder(replace(SERVED, posture=Posture(partial_rollout="abort")))

    def rank1() -> int:
        (found,) = [one.pid for one in _serving_processes(ray_node) if "rank1" in " ".join(one.cmdline())]
        return found

    assert _lose(folder, ray_node, rank1) == 1
    last = folder.log("controller").splitlines()[-1]
    assert "RolloutError: rollout0: HTTP 500: Exception: InferenceEngineError: RolloutError: POST /generate: HTTP 503: " in last
    reason = last.rpartition("HTTP 503: ")[2]
    assert "POST /generate 503 in" in folder.log("serving") and reason in folder.log("serving")
    assert len(reason) > 10, "a reason, not a status alone"
    assert _gone(ray_node)


def test_a_lost_service_is_a_rollout_error(job_folder: Callable[[JobConfig], JobFolder], ray_node: Cluster) -> None:
    """kill -9 of the serving component: the worker names the connection. What is left on the node is in no later job's way."""
    folder = job_folder(replace(SERVED, posture=Posture(partial_rollout="abort")))
    assert _lose(folder, ray_node, lambda: folder.registration("serving")["pid"]) == 1
    last = folder.log("controller").splitlines()[-1]
    assert "RolloutError: rollout0" in last and "POST /generate: " in last and "onnection" in last
    assert "worker serving" in folder.log("scheduler") and "exit code -9" in folder.log("scheduler")


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (replace(SERVED, serving=ServingConfig(rank_source="environment")), "RANK and WORLD_SIZE expected, but not set"),
        (replace(SERVED, serving=ServingConfig(ranks=4, deploy_s=4)), "not ready within 4 s: rank"),
        (replace(SERVED, device="cuda", serving=ServingConfig(ranks=1)), "device ordinal"),
    ],
    ids=["no rank in the environment", "no CPU to be found", "no such device"],
)
def test_what_keeps_the_service_from_starting_is_told(
    config: JobConfig, reason: str, job_folder: Callable[[JobConfig], JobFolder], ray_node: Cluster
) -> None:
    """The component ends within its bound, with one line that names the mistake; the job is told by the scheduler."""
    folder = job_folder(config)
    address, env, _ = ray_node
    process = folder.start("rlhf.scheduler", "--ray", address, **env)
    while registered("scheduler") is None:
        assert process.poll() is None, folder.log("scheduler")
        time.sleep(0.02)
    jobs = "http://{}:{}/api/v1/AsystemJobs".format(*links.listen_address("scheduler", "scheduler"))
    uid = requests.post(jobs, json={"name": "serving", "components": ["serving"]}, timeout=60).json()["uid"]
    deadline = time.monotonic() + 150
    while (shown := requests.get(f"{jobs}/{uid}", timeout=60).json())["status"] in ("STARTING", "RUNNING"):
        assert time.monotonic() < deadline, folder.log("serving")
        time.sleep(0.1)
    (told,) = shown["workerGroupStatuses"][0][0]["containerStatuses"]
    assert told["exitCode"] == 1
    last = told["lastWords"].splitlines()[-1]
    assert last in folder.log("serving")
    assert "ERROR serving: serving cannot be had: InferenceEngineError: InitializeError: " in last
    assert reason in last
    process.terminate()
    assert process.wait(60) == 0


def test_a_served_job_without_ray_is_refused(job_folder: Callable[[JobConfig], JobFolder]) -> None:
    """Where no Ray places the workers there is no Serve: the job ends before it begins, and says why."""
    folder = job_folder(SERVED)
    assert _run(folder, None) == 1
    last = folder.log("controller").splitlines()[-1]
    assert "serving (exit code 1: " in last and "needs a job that is placed by Ray" in last


@pytest.mark.long
def test_a_lost_service_comes_back(job_folder: Callable[[JobConfig], JobFolder], ray_node: Cluster) -> None:
    """Posture `restart`: the service killed on entering a rollout is started again and given the step's weights anew; the job
    does all its steps."""
    folder = job_folder(replace(SERVED, posture=HARDENED))
    hold = Hold(folder, "rollout", 1, lambda: os.kill(folder.registration("serving")["pid"], signal.SIGKILL))
    env = {"STAGE_SOCKET": str(hold.path), "STAGE_DEADLINE_S": "60", "SERVER_RESTART_WAIT_TIME": "120"}
    assert _run(folder, ray_node, **env) == 0, folder.log("controller") + folder.log("serving")
    assert "serving is lost and will be restarted: " in folder.log("controller")
    assert sorted(folder.by_step("controller", "reward")) == list(range(SERVED.steps))
    assert _gone(ray_node)
