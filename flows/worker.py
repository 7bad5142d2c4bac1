"""`python -m flows.worker`: make the work pool, deploy prefect.yaml, then serve the pool until told to stop.

Exactly the three commands a person would type, in one process: each on its own costs seconds of imports, and importing
here overlaps with the server's start.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

from flows.api import Api
from injection.procfs import Identity
from storage.layout import prefect_home

POOL = "faultline"
#: What prefect.yaml deploys, as Prefect names it (a test compares the two).
DEPLOYMENTS = (
    "answer-by-hand/answer-by-hand",
    "baseline/baseline",
    "blind-diagnosis/blind-diagnosis",
    "compare/compare",
    "fault-matrix/fault-matrix",
    "fault-matrix/nightly-sweep",
    "fault-run/fault-run",
)
PREFECT_YAML = Path(__file__).resolve().parents[1] / "prefect.yaml"


def main() -> None:
    """Wait for the server named by PREFECT_API_URL (as long as its process lives), then deploy and serve."""
    from prefect.cli import app

    import flows.answer_by_hand
    import flows.blind_diagnosis
    import flows.fault_matrix  # noqa: F401 - imported while the server starts, so that deploying need not

    tempfile.tempdir = str(own_temporary_folder())
    server = Identity(int(sys.argv[1]), int(sys.argv[2]))
    Api(os.environ["PREFECT_API_URL"]).wait_healthy(server, within_s=120)
    for words in (
        ["work-pool", "create", POOL, "--type", "process", "--overwrite"],
        ["--no-prompt", "deploy", "--all", "--prefect-file", str(PREFECT_YAML)],
        ["worker", "start", "--pool", POOL, "--type", "process", "--name", "faultline"],
    ):
        sys.argv = ["prefect", *words]
        _call(app)


def own_temporary_folder() -> Path:
    """An empty folder under the home. Prefect keeps flow runs in <temporary folder>/runner_storage, which belongs to
    whichever user of the machine came first. Set in this process alone: flow runs share the machine's lock with others.
    """
    folder = prefect_home() / "tmp"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    return folder


def _call(app: object) -> None:
    """One Prefect command; a failing one ends this process with its exit code."""
    assert callable(app)
    try:
        app()
    except SystemExit as end:
        if end.code:
            raise


if __name__ == "__main__":
    main()
