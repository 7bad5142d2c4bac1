"""What Prefect calls when a run was cancelled or has crashed.

This is the fast path; the watchdog is the guarantee. A hook may run in another process than the flow's, so it knows nothing
but the disk and the server. Prefect calls hooks by keyword: the parameters' names are part of the contract.
"""

from __future__ import annotations

from typing import Any

from prefect.logging.loggers import flow_run_logger
from prefect.settings import PREFECT_API_URL

from flows.api import Api
from injection.recover import sweep
from storage.layout import journal_dir
from tasks.machine_lock import holder
from tasks.unfinished import close_abandoned


def undo(flow: Any, flow_run: Any, state: Any) -> None:
    """Sweep the journal and say what became of every record in it."""
    log = flow_run_logger(flow_run, flow)
    log.warning("%s %s ended as %s: sweeping the journal", flow.name, flow_run.name, state.name)
    for outcome in sweep(journal_dir()):
        log.warning("undo: %s", outcome)
    if not holder():  # nobody runs anything: what claims to be under way died with its flow
        for run in close_abandoned():
            log.warning("run %s died", run)


def close_subflows(flow: Any, flow_run: Any, state: Any) -> None:  # noqa: ARG001 - Prefect passes it by name
    """Call crashed what died with its parent: a killed process cannot report the end of its subflows."""
    url = PREFECT_API_URL.value()
    if not url:  # a temporary server inside this process: it dies with the run, nobody will read it
        return
    for name in Api(url).close_orphans(str(flow_run.id)):
        flow_run_logger(flow_run, flow).warning("%s died with %s", name, flow_run.name)
