"""What Prefect calls when a run was cancelled or has crashed.

This is the fast path; the watchdog is the guarantee. A hook may run in another process than the flow's, so it knows nothing
but the disk and the server. Prefect calls hooks by keyword: the parameters' names are part of the contract.
"""

from __future__ import annotations

from typing import Any

from prefect.logging.loggers import flow_run_logger
from prefect.settings import PREFECT_API_URL

from flows.api import Api
from tasks.machine_lock import MachineBusyError, machine_lock
from tasks.recover import recover


def undo(flow: Any, flow_run: Any, state: Any) -> None:
    """Undo and end what the run left, and say what became of it."""
    log = flow_run_logger(flow_run, flow)
    log.warning("%s %s ended as %s: looking for what it left", flow.name, flow_run.name, state.name)
    try:
        with machine_lock("undo"):
            for outcome in recover():
                log.warning("undo: %s", outcome)
    except MachineBusyError:  # the next run has begun already, and it began with this very look
        log.warning("another run has the machine")


def close_subflows(flow: Any, flow_run: Any, state: Any) -> None:  # noqa: ARG001 - Prefect passes it by name
    """Call crashed what died with its parent: a killed process cannot report the end of its subflows."""
    url = PREFECT_API_URL.value()
    if not url:  # a temporary server inside this process: it dies with the run, nobody will read it
        return
    for name in Api(url).close_orphans(str(flow_run.id)):
        flow_run_logger(flow_run, flow).warning("%s died with %s", name, flow_run.name)
