"""Say in its manifest that a run did not get to its end: it must never look like one that did."""

from __future__ import annotations

from storage.catalogue import run_ids_here
from storage.layout import RunPaths, run_paths
from storage.manifest import ManifestError, RunState, end_manifest, load_manifest


def cut_short(paths: RunPaths, error: BaseException) -> None:
    """Close a reverted run that ended by ``error``: cancelled when somebody ended it, crashed when something failed."""
    if paths.manifest.exists():
        state = RunState.CRASHED if isinstance(error, Exception) else RunState.CANCELLED
        end_manifest(paths, state, {"cut_short": type(error).__name__})


def close_abandoned() -> list[str]:
    """Call crashed every run of this home that claims to be under way; returns their ids.

    To be called when nothing is: while holding the machine, or when nobody does.
    """
    closed = []
    for run_id in run_ids_here():
        paths = run_paths(run_id)
        try:
            if load_manifest(paths).state != RunState.RUNNING:
                continue
        except ManifestError:  # the catalogue names it
            continue
        end_manifest(paths, RunState.CRASHED, {"cut_short": "its lab process was killed"})
        closed.append(run_id)
    return closed
