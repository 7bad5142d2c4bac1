"""The controller: ``python -m rlhf.job JOB_DIR``. Submits the workers, runs the loop and cleans up, whatever happened."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from rlhf import metaserver, seam
from rlhf.config import JobConfig, load_config
from rlhf.controller import Controller
from rlhf.errors import FrameworkError
from rlhf.links import listen
from rlhf.logs import open_log
from rlhf.registry import register
from rlhf.resilience.first_cause import keep_first_cause
from rlhf.resilience.restart_protocol import RestartSettings
from rlhf.resilience.supervisor import BACKOFF
from rlhf.revival import Revival
from rlhf.scheduler_client import SchedulerClient
from rlhf.services import Services
from rlhf.sft_controller import SftController
from rlhf.stats import StatsTracker
from rlhf.topology import beating, ranked
from storage.records import Role

if TYPE_CHECKING:
    from rlhf.membership import Membership

logger = logging.getLogger(__name__)

HEALTH_POLL_S = 0.1


def run(job_dir: Path) -> None:
    """The whole job. Raises what ended it, after cleanup."""
    config = load_config(job_dir / "config.json")
    with StatsTracker(job_dir / "stats" / "controller.jsonl", "controller") as stats:
        scheduler, members = SchedulerClient(config, stats), open_membership(config, stats)
        die_by_sigterm(scheduler, stats, members)
        try:
            controller = (SftController if config.workload == "sft" else Controller)(config, stats)
            if config.posture.restart:
                hands = (*controller.hands, Services(config))
                settings, backoff = RestartSettings.from_environment(), BACKOFF.scaled(config.time_scale)
                controller.revival = Revival(scheduler, hands, settings, stats, backoff)
            with stats.record_timing("init", "init"), seam.stage("init", -1):
                start(config, scheduler, controller, stats)
            if members is not None:
                members.begin(beating(config))
                scheduler.restarted = members.expect
                controller.heed(members)
            controller.run()
        except Exception as error:
            logger.error("An error occurred during training, scheduler begin cleanup resource.")  # noqa: TRY400 - its traceback comes last
            if config.posture.first_cause:
                keep_first_cause(error, lambda: clean_up(scheduler, stats, members, logging.WARNING))
            else:
                clean_up(scheduler, stats, members)
            raise
        clean_up(scheduler, stats, members)


def open_membership(config: JobConfig, stats: StatsTracker) -> Membership | None:
    """Who of the workers is there; nothing, in a job without heartbeats."""
    if not config.posture.heartbeats:
        return None
    from rlhf.membership import Membership

    return Membership(config, stats)


def start(config: JobConfig, scheduler: SchedulerClient, controller: Controller, stats: StatsTracker) -> None:
    """Until every engine is ready."""
    if config.posture.metaserver == "controller":
        metaserver.serve_beside(metaserver.MetaServer(stats).app(), listen("metaserver", "weights"))
        register("metaserver")
    scheduler.submit("services", ["reward"] if config.posture.metaserver == "controller" else ["metaserver", "reward"])
    actor = scheduler.submit("actor", ranked(config, Role.TRAIN))
    if config.workload == "grpo":
        if config.rollout_engine == "served":
            scheduler.submit("serving", [Role.SERVING])
        scheduler.submit("rollout", ranked(config, Role.ROLLOUT), beside=actor if config.colocated else "")
        scheduler.submit("reference", ranked(config, Role.REFERENCE))
    scheduler.wait_registered()
    logger.info("all workers registered")
    wait_healthy(config, controller)
    logger.info("all workers healthy")
    controller.start()
    logger.info("all engines initialized")
    if config.posture.readiness:
        wait_ready(config, controller)
        logger.info("all engines ready")


def wait_healthy(config: JobConfig, controller: Controller) -> None:
    """Until every worker answers /health. Raises FrameworkError naming those that do not."""
    deadline = time.monotonic() + config.timeout_s("init")
    while silent := [name for hand in controller.hands for name in hand.group.silent()]:
        if time.monotonic() > deadline:
            raise FrameworkError("SchedulerError", f"no answer to /health from {', '.join(silent)}")
        time.sleep(HEALTH_POLL_S)


def wait_ready(config: JobConfig, controller: Controller) -> None:
    """Until every engine says that it is initialized, which is more than that its process answers. Raises FrameworkError."""
    deadline = time.monotonic() + config.timeout_s("init")
    while unready := [name for hand in controller.hands for name in hand.group.unready()]:
        if time.monotonic() > deadline:
            raise FrameworkError("SchedulerError", f"not initialized: {', '.join(unready)}")
        time.sleep(HEALTH_POLL_S)


def clean_up(
    scheduler: SchedulerClient, stats: StatsTracker, members: Membership | None, level: int = logging.ERROR
) -> list[Exception]:
    """Cancel all jobs; what went wrong is logged at ``level`` and returned. Nobody is missed any more."""
    if members is not None:
        members.close()
    with stats.record_timing("cleanup", "cleanup"), seam.stage("cleanup", stats.step):
        return scheduler.cleanup_jobs(level)


def die_by_sigterm(scheduler: SchedulerClient, stats: StatsTracker, members: Membership | None) -> None:
    """On SIGTERM clean up, then end by that very signal, so that whoever waits sees it."""

    def on_sigterm(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        logger.warning("SIGTERM received, scheduler begin cleanup resource.")
        clean_up(scheduler, stats, members)
        os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, on_sigterm)


def main() -> None:
    parser = argparse.ArgumentParser(prog="rlhf.job", description="Runs one GRPO job: the controller.")
    parser.add_argument("job_dir", type=Path)
    job_dir = parser.parse_args().job_dir.resolve()
    os.environ["JOB_DIR"] = str(job_dir)
    open_log("controller", job_dir / "logs" / "controller.log")
    seam.announce_as("controller")
    register("controller")
    run(job_dir)


if __name__ == "__main__":
    main()
