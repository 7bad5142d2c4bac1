"""The lab's part in a kill storm: the real place, injector and watchdog, started and ended as in a run; the job is a stand-in.

    python -m bench.storm_lab PLAN.json

Requests are JSON lines on standard input, each answered by a line: `{"do": "round", "faults": [...]}` starts injector and
watchdog, `{"do": "end"}` ends them. As in a run, one of them that ends by itself ends them all, and one that belongs to the
place ends that as well. The end of the input ends the place.
"""

from __future__ import annotations

import json
import select
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from injection.place import PlaceError
from injection.recover import sweep
from storage.layout import journal_dir, new_run_id, run_paths
from tasks.launch import READY_S, Experiment, open_site, start_hands, write_plan
from tasks.revert import FLUSH_LIMIT_S, REVERT_LIMIT_S, end_process
from tasks.waiting import LabError, Watched, says, wait_for

POLL_S = 0.05
GROUND_S = 60.0
#: What belongs to the place: without it there is no further round.
OF_PLACE = ("proxy", "names")


def main() -> int:
    """See the module."""
    plan = json.loads(Path(sys.argv[1]).read_text())
    experiment = Experiment(plan, run_paths(new_run_id()).create())
    write_plan(experiment)
    try:
        open_site(experiment)
        _start_ground(experiment)
        _say({"run_id": experiment.paths.run_id, "scratch": str(experiment.at().scratch)})
        _serve(experiment)
    finally:
        _end_round(experiment)
        if experiment.place:
            experiment.place.close()
        sweep(journal_dir())
    return 0


def _serve(experiment: Experiment) -> None:
    """Answer until the input ends or the place is gone."""
    while True:
        if not select.select([sys.stdin], [], [], POLL_S)[0]:
            lost = _lost(experiment)
            if lost:
                _end_round(experiment)
            if set(lost) & {*OF_PLACE, "place"}:
                return
            continue
        line = sys.stdin.readline()
        if not line:
            return
        request = json.loads(line)
        _say(_start_round(experiment, request["faults"]) if request["do"] == "round" else _end_round(experiment))


def _start_ground(experiment: Experiment) -> None:
    log = experiment.paths.lab_logs / "ground.log"
    about = [str(experiment.paths.root), str(experiment.at().scratch), experiment.proxy_api or "-"]
    argv = [sys.executable, "-m", "bench.storm_ground", *about]
    ground = experiment.at().spawn(argv, host=experiment.outside, log=log)
    wait_for("it listened", lambda: says(log, "ready"), [Watched("the ground", ground, (log,))], GROUND_S)


def _start_round(experiment: Experiment, faults: list[dict[str, Any]]) -> dict[str, Any]:
    experiment.plan["faults"] = faults
    for name in ("injector", "watchdog", "guard"):  # their readiness is read from their logs
        (experiment.paths.lab_logs / f"{name}.log").unlink(missing_ok=True)
    try:
        start_hands(experiment)
    except (LabError, PlaceError, OSError) as error:
        _end_round(experiment)
        return {"error": str(error)}
    return {}


def _end_round(experiment: Experiment) -> dict[str, Any]:
    """As `tasks.revert` does, but for the job and the place."""
    codes = {"injector": end_process(experiment.injector, REVERT_LIMIT_S, signal.SIGINT)}
    _let_stand(experiment)
    codes["watchdog"] = end_process(experiment.watchdog, FLUSH_LIMIT_S)
    end_process(experiment.guard, REVERT_LIMIT_S)
    experiment.injector = experiment.watchdog = experiment.guard = None
    sweep(journal_dir())  # as at a run's end: a watchdog that was just starting has undone nothing
    return {"codes": codes}


def _let_stand(experiment: Experiment) -> None:
    """A watchdog that is told to end before it listens undoes nothing. In a run the place goes next, here it stays."""
    log, watchdog = experiment.paths.lab_logs / "watchdog.log", experiment.watchdog
    if watchdog is not None:
        with suppress(LabError, PlaceError):
            wait_for("it stood", lambda: says(log, "ready"), [Watched("the watchdog", watchdog, (log,))], READY_S)


def _lost(experiment: Experiment) -> list[str]:
    try:
        return [name for name, process in experiment.instruments().items() if process.poll() is not None]
    except PlaceError:
        return ["place"]


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
