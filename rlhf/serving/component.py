"""The component `serving` of a job: the application's entry in a process of the job's own, its ranks on the job's Ray cluster.

It listens, logs and ends as every other component does; Serve's own HTTP proxy is not started. What Serve does here is to
place the ranks where the rollout workers are, to watch over them and to replace them.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from aiohttp import web

from rlhf.config import JobConfig
from rlhf.errors import EngineError, InferenceEngineError
from rlhf.links import name_table
from rlhf.metaserver import serve_app
from rlhf.ray_nodes import keep_to
from rlhf.registry import register
from rlhf.request_id import REQUEST_ID
from rlhf.serving.config import ServingConfig
from rlhf.serving.interface import require_all

logger = logging.getLogger(__name__)

#: Of the bound within which every worker must have registered: the rest is for Ray to answer, and for who waits to be told.
DEPLOY_SHARE = 0.75


def serve_component(component: str, config: JobConfig, listener: socket.socket, job_dir: Path) -> None:
    """Have the ranks placed, let them meet, register, answer until SIGTERM. What goes wrong before is one line and exit 1."""
    signal.signal(signal.SIGTERM, _leave)
    try:
        with cluster(job_dir):
            asyncio.run(_serve(component, config, listener, owner=job_dir.parent.name))
    except (EngineError, OSError, RuntimeError, TimeoutError) as error:
        logger.error("%s cannot be had: %s", component, error)  # noqa: TRY400 - one line, which is passed on
        sys.exit(1)


def bounds_of(config: JobConfig) -> ServingConfig:
    """The configuration of the service as a part of the job: on the rollout workers' host, and every bound of its own shorter
    than that of the worker who waits for it, so that the service, which knows whom it waits for, answers first.
    """
    given, worker_s = config.serving, min(config.timeout_s("rollout"), config.timeout_s("update_weights"))
    request_s = min(given.request_s, 0.8 * worker_s)
    return replace(
        given,
        host=given.host or name_table()["host"]["rollout0"],
        deploy_s=min(given.deploy_s, DEPLOY_SHARE * config.timeout_s("init")),
        request_s=request_s,
        rendezvous_s=min(given.rendezvous_s, 0.8 * request_s),
        collective_s=min(given.collective_s, 0.8 * request_s),
    )


@contextmanager
def cluster(job_dir: Path) -> Iterator[None]:
    """Ray as its scheduler found it, with a Serve of ours on it. Raises InferenceEngineError for a job without Ray."""
    record = job_dir / "ray.json"
    if not record.exists():
        raise InferenceEngineError("InitializeError", "rollout_engine served needs a job that is placed by Ray")
    address = json.loads(record.read_text())["address"]
    keep_to(address.rpartition(":")[0])
    require_all()
    import ray
    from ray import serve

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    ray.init(address=address, log_to_driver=False, logging_level="ERROR", namespace=job_dir.parent.name)
    try:
        serve.start(proxy_location="Disabled")
        yield
    finally:
        serve.shutdown()
        ray.shutdown()


async def _serve(component: str, config: JobConfig, listener: socket.socket, owner: str) -> None:
    from rlhf.serving.application import deploy_ranks
    from rlhf.serving.entry import Entry

    serving, stop = bounds_of(config), asyncio.Event()
    entry = Entry(config, serving, *await asyncio.to_thread(deploy_ranks, config, serving, owner))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    members = await entry.members()
    runner = await serve_app(_app(entry), listener)
    register(component)
    told = ", ".join(f"rank {one['rank']} of {one['world']} on {one['device']} (pid {one['pid']})" for one in members)
    logger.info("listening on %s:%d, the ranks have met: %s", *listener.getsockname(), told)
    await stop.wait()
    await runner.cleanup()


def _app(entry: Any) -> web.Application:
    """Every request to the entry, and a line of log about each."""
    from rlhf.serving.entry import body_of

    async def handle(request: web.Request) -> web.Response:
        async def read() -> bytes:
            return await body_of(request.content.iter_any())

        start = asyncio.get_running_loop().time()
        answer = await entry.answer(request.method, request.path, request.headers.get("content-type", ""), read)
        took_s = asyncio.get_running_loop().time() - start
        reason = "" if answer.status == web.HTTPOk.status_code else f" {json.loads(answer.content)['error']}"
        level = logging.INFO if not reason else logging.ERROR
        request_id = request.headers.get(REQUEST_ID, "-")
        told = (request.method, request.path, answer.status, took_s, reason, request_id)
        logger.log(level, "%s %s %d in %.3fs%s request_id=%s", *told)
        return web.Response(body=answer.content, status=answer.status, content_type=answer.kind)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    return app


def _leave(number: int, _: object) -> None:
    sys.exit(128 + number)
