"""The scheduler: starts a job's workers on their hosts and answers for them over HTTP.

``python -m rlhf.scheduler JOB_DIR [--ray ADDRESS]``. With Ray it is the driver and hosts are Ray actors; without, it has them
itself. Its API: POST /api/v1/AsystemJobs -> uid; GET .../{uid} -> status and workers; POST .../{uid}/cancel.
A job may ask to be colocated with another; hosts are the name table's, so that is checked, not arranged. Ports are the name
table's as well, or given out (`rlhf/ports.py`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from aiohttp import web

from rlhf.host import Host
from rlhf.links import listen, name_table
from rlhf.logs import open_log
from rlhf.metaserver import serve_app
from rlhf.plain import parse_json
from rlhf.ports import AUTO, PORT_TAKEN, TRIES, give_port, strategy_problem
from rlhf.ray_nodes import keep_to
from rlhf.registry import forget, register, registered
from rlhf.topology import role_and_rank
from storage.records import RANKED_ROLES, Role

logger = logging.getLogger(__name__)

JOBS = "/api/v1/AsystemJobs"
POLL_S = 0.25
#: How much is told of what a worker said last.
LAST_WORDS = 500
#: What a host's processes need of this one's environment; the rest is that machine's own.
HANDED_ON = ("STAGE_SOCKET", "STAGE_DEADLINE_S", "PYTHONPATH")


class AnyHost(Protocol):
    """A Host, here or placed by Ray."""

    def start(self, component: str) -> None: ...
    def engines(self) -> dict[str, dict[str, Any]]: ...
    def stop(self, components: list[str]) -> dict[str, int | None]: ...
    def close(self) -> None: ...


@dataclass
class Job:
    """A group of workers that is submitted and cancelled together."""

    uid: str
    name: str
    components: list[str]
    auto_ports: bool = False
    cancelled: bool = False


class Scheduler:
    """Jobs, and the hosts that carry their workers. ``hosts`` maps a component to its host."""

    def __init__(self, hosts: dict[str, AnyHost], job_dir: Path):
        self._hosts = hosts
        self._job_dir = job_dir
        self._jobs: dict[str, Job] = {}
        self._ends: set[asyncio.Task[None]] = set()
        self._known_exits: dict[str, int] = {}

    def app(self) -> web.Application:
        """The HTTP application."""
        app = web.Application()
        app.add_routes(
            [
                web.post(JOBS, self._submit),
                web.get(JOBS + "/{uid}", self._show),
                web.post(JOBS + "/{uid}/cancel", self._cancel),
                web.post(JOBS + "/{uid}/restart/{component}", self._restart),
            ]
        )
        return app

    async def _submit(self, request: web.Request) -> web.Response:
        try:
            asked = parse_json(await request.read())
            name, components = str(asked["name"]), [str(component) for component in asked["components"]]
            ports = asked.get("portStrategy")
        except (ValueError, KeyError, TypeError) as error:
            return web.Response(status=400, text=f"expected an object with name and components: {error!r}")
        strange = [component for component in components if component not in self._hosts]
        taken = [component for job in self._jobs.values() for component in job.components if component in components]
        if len(set(components)) < len(components):
            return web.Response(status=400, text=f"a component twice: {', '.join(components)}")
        if strange or not components:
            return web.Response(status=400, text=f"no such component: {', '.join(strange) or 'none was given'}")
        if problem := self._misplaced(components, asked.get("scheduleStrategy")) or strategy_problem(ports, components):
            return web.Response(status=400, text=problem)
        if taken:
            return web.Response(status=409, text=f"already submitted: {', '.join(taken)}")
        job = Job(uuid.uuid4().hex[:12], name, components, ports == AUTO)
        self._jobs[job.uid] = job
        try:
            await asyncio.gather(*(self._start(job, component) for component in components))
        except OSError as error:
            return web.Response(status=503, text=str(error))
        logger.info("job %s (%s) submitted: %s", job.uid, name, ", ".join(components))
        return web.json_response({"uid": job.uid})

    async def _start(self, job: Job, component: str) -> None:
        """Start a worker. One that gets its port here is waited for: if that was taken meanwhile, it gets the next free one."""
        host, port = self._hosts[component], give_port(component) if job.auto_ports else 0
        for left in range(TRIES, -1, -1):
            forget(component)
            await asyncio.to_thread(host.start, component)
            if not job.auto_ports or await self._settled(component) != PORT_TAKEN or not left:
                return
            logger.warning("port %d of %s was taken meanwhile, another is tried (%d left)", port, component, left)
            port = give_port(component, above=port)

    async def _settled(self, component: str) -> int | None:
        """How a worker that was just started ended; None as soon as it listens."""
        while registered(component) is None:
            code = (await asyncio.to_thread(self._hosts[component].engines))[component]["exit_code"]
            if code is not None:
                return int(code)
            await asyncio.sleep(POLL_S / 5)
        return None

    def _misplaced(self, components: list[str], strategy: Any) -> str:
        """Why components cannot be placed as asked: {"type": "colocation", "uid": the job to share hosts with}; or nothing."""
        if strategy is None:
            return ""
        if not isinstance(strategy, dict) or strategy.get("type") != "colocation":
            return f"no such scheduleStrategy: {strategy!r}; there is one, of type colocation"
        job = self._jobs.get(str(strategy.get("uid")))
        if job is None:
            return f"colocation with a job that is not there: {strategy.get('uid')!r}"
        shared = {self._hosts[component] for component in job.components}
        apart = [component for component in components if self._hosts[component] not in shared]
        return f"not on a host of job {job.uid} ({job.name}): {', '.join(apart)}" if apart else ""

    async def _show(self, request: web.Request) -> web.Response:
        job = self._jobs.get(request.match_info["uid"])
        if job is None:
            return web.Response(status=404, text=f"no job {request.match_info['uid']}")
        engines = await self._engines(job.components)
        exits = [engines.get(component, {}).get("exit_code") for component in job.components]
        workers = [self._worker(component, code) for component, code in zip(job.components, exits, strict=True)]
        status = "CANCELLED" if job.cancelled else _status(exits, [bool(one["ip"]) for one in workers])
        return web.json_response({"uid": job.uid, "jobName": job.name, "status": status, "workerGroupStatuses": [workers]})

    def _worker(self, component: str, exit_code: int | None) -> dict[str, Any]:
        """What is known of a worker: where it listens, once it does, and how it ended."""
        record = registered(component)
        ip, ports, pid = (record.address, sorted(set(record.ports.values())), record.pid) if record else ("", [], 0)
        words = _last_words(self._job_dir / "logs" / f"{component}.log") if exit_code else ""
        container = {"name": component, "ports": ports, "pid": pid, "exitCode": exit_code, "lastWords": words}
        return {"ip": ip, "containerStatuses": [container]}

    async def _cancel(self, request: web.Request) -> web.Response:
        """Say yes at once and end the workers after: who cancels does not wait for them."""
        job = self._jobs.get(request.match_info["uid"])
        if job is None:
            return web.Response(status=404, text=f"no job {request.match_info['uid']}")
        if not job.cancelled:
            job.cancelled = True
            ending = asyncio.create_task(self._end(job))
            self._ends.add(ending)
            ending.add_done_callback(self._ends.discard)
        return web.json_response({"uid": job.uid, "status": "CANCELLED"})

    async def _restart(self, request: web.Request) -> web.Response:
        """End one worker of a running job, if it has not ended, and start it again."""
        job, component = self._jobs.get(request.match_info["uid"]), request.match_info["component"]
        if job is None or component not in job.components:
            return web.Response(status=404, text=f"no worker {component} of a job {request.match_info['uid']}")
        if job.cancelled:
            return web.Response(status=409, text=f"job {job.uid} is cancelled")
        host = self._hosts[component]
        ended = await asyncio.to_thread(host.stop, [component])
        if ended[component] is None:
            return web.Response(status=503, text=f"{component} cannot be ended")
        forget(component)
        await asyncio.to_thread(host.start, component)
        logger.info("worker %s is started again, after exit code %d", component, ended[component])
        return web.json_response({"component": component, "exit_code": ended[component]})

    async def _end(self, job: Job) -> None:
        logger.info("job %s (%s) cancelled", job.uid, job.name)
        hosts = {self._hosts[component] for component in job.components}
        await asyncio.gather(*(asyncio.to_thread(host.stop, job.components) for host in hosts))

    async def _engines(self, components: Iterable[str]) -> dict[str, dict[str, Any]]:
        """What their hosts know; no other host is asked."""
        hosts = {self._hosts[component] for component in components}
        answers = await asyncio.gather(*(asyncio.to_thread(host.engines) for host in hosts))
        return {name: engine for answer in answers for name, engine in answer.items()}

    async def watch(self) -> None:
        """Log every worker's end, and keep ``workers.json``, for ever."""
        while True:
            engines = await self._engines(self._hosts)
            exits = {name: engine["exit_code"] for name, engine in engines.items() if engine["exit_code"] is not None}
            for name in sorted(set(exits) - set(self._known_exits)):
                words = f"; its last words: {_last_words(self._job_dir / 'logs' / f'{name}.log')}" if exits[name] > 0 else ""
                logger.warning("worker %s (pid %d) ended with exit code %d%s", name, engines[name]["pid"], exits[name], words)
            if exits != self._known_exits:
                (self._job_dir / "workers.json").write_text(json.dumps(engines, indent=2) + "\n")
                self._known_exits = exits
            await asyncio.sleep(POLL_S)

    async def close(self) -> None:
        """End every worker, then the hosts."""
        await asyncio.gather(*(self._end(job) for job in self._jobs.values() if not job.cancelled), *self._ends)
        await asyncio.gather(*(asyncio.to_thread(host.close) for host in set(self._hosts.values())))


def _status(exits: list[int | None], listening: list[bool]) -> str:
    """Of a job that is not cancelled. There is no queue: a run has its cluster to itself."""
    if any(exits):
        return "FAILED"
    if all(code == 0 for code in exits):
        return "COMPLETED"
    return "RUNNING" if all(listening) else "STARTING"


def _last_words(log: Path) -> str:
    return log.read_bytes()[-LAST_WORDS:].decode(errors="replace") if log.exists() else ""


def open_hosts(job_dir: Path, ray_address: str | None) -> dict[str, AnyHost]:
    """The host of each worker, with what those need in its template."""
    carried: dict[str, list[str]] = {}
    for component, host in name_table()["host"].items():
        if role_and_rank(component)[0] not in (Role.CONTROLLER, Role.SCHEDULER):
            carried.setdefault(host, []).append(component)
    environment = {name: os.environ[name] for name in HANDED_ON if name in os.environ}
    hosts: dict[str, AnyHost] = {}
    for name, components in carried.items():
        hosts |= dict.fromkeys(components, _open_host(name, job_dir, ray_address, _preload(components), environment))
    return hosts


def _preload(components: list[str]) -> str:
    """What a host's template must have imported for the components it carries."""
    roles = {role_and_rank(component)[0] for component in components}
    return "train" if Role.TRAIN in roles else "torch" if roles & {*RANKED_ROLES, Role.SERVING} else "none"


def _open_host(name: str, job_dir: Path, ray_address: str | None, preload: str, environment: dict[str, str]) -> AnyHost:
    if ray_address is None:
        return Host(str(job_dir), preload, environment)
    from rlhf.actors import RemoteHost

    return RemoteHost(name, str(job_dir), preload, environment)


async def serve(job_dir: Path, ray_address: str | None) -> None:
    """Serve until SIGTERM or SIGINT, then end everything that was started."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    listener = listen("scheduler", "scheduler")
    scheduler = Scheduler(open_hosts(job_dir, ray_address), job_dir)
    runner = await serve_app(scheduler.app(), listener)
    register("scheduler")
    logger.info("listening on %s:%d", *listener.getsockname())
    watching = asyncio.create_task(scheduler.watch())
    await stop.wait()
    watching.cancel()
    await scheduler.close()
    await runner.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser(prog="rlhf.scheduler", description="Starts a job's workers and answers for them.")
    parser.add_argument("job_dir", type=Path)
    parser.add_argument("--ray", metavar="ADDRESS", help="place workers through this Ray cluster")
    arguments = parser.parse_args()
    os.environ["JOB_DIR"] = str(arguments.job_dir.resolve())
    open_log("scheduler", arguments.job_dir / "logs" / "scheduler.log")
    if arguments.ray:
        keep_to(arguments.ray.rpartition(":")[0])
        from rlhf.actors import connect

        connect(arguments.ray, arguments.job_dir.resolve())
    asyncio.run(serve(arguments.job_dir.resolve(), arguments.ray))


if __name__ == "__main__":
    main()
