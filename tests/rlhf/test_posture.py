"""What each switch of the posture changes in the job."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest

from rlhf import job, links, worker_group
from rlhf.config import FLOORS_S, HARDENED, JobConfig, Posture, job_config, load_config
from rlhf.dispatch import Dispatch
from rlhf.errors import TrainEngineError
from rlhf.resilience.first_cause import keep_first_cause
from rlhf.resilience.readiness import endpoint, look
from rlhf.rpc import EVENT
from rlhf.rpc_server import RpcServer
from rlhf.scheduler_client import SchedulerClient
from rlhf.stats import StatsTracker
from rlhf.worker_group import WorkerGroup, wait_all
from storage.records import Role

MakeFolder = Callable[[JobConfig], object]


def test_postures_survive_json(tmp_path: Path) -> None:
    """A posture is written and read back; wrong words, wrong types and unknown switches are refused by name."""
    JobConfig(posture=HARDENED).save(tmp_path / "config.json")
    assert load_config(tmp_path / "config.json").posture == HARDENED
    same = [f.name for f in fields(Posture) if getattr(HARDENED, f.name) == getattr(Posture(), f.name)]
    assert same == ["on_reward_failure", "metaserver"], "neither makes rewards up; where the store is, is no mechanism"
    for bad, told in (
        ({"retry": "often"}, "posture retry is 'often'; allowed: trainer, hasty, patient, grpc_send, backoff"),
        ({"first_cause": "yes"}, "posture first_cause is 'yes'; allowed: true, false"),
        ({"hope": True}, "unknown posture key"),
    ):
        with pytest.raises(ValueError, match=told):
            job_config({"posture": bad})


@contextmanager
def _group(config: JobConfig, tmp_path: Path, serve: Callable[[str, dict], dict]) -> Iterator[WorkerGroup]:
    """One train worker that answers as ``serve(path, meta)`` says, and the controller's group of it."""
    server = RpcServer(links.listen("train0", "rpc"), 5.0, lambda path, meta, _: (serve(path, meta), {}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    with StatsTracker(tmp_path / "controller.jsonl", "controller") as stats:
        yield WorkerGroup(Role.TRAIN, config, stats, TrainEngineError)
    server.stop()
    thread.join(30)


@pytest.mark.parametrize(("learned", "limit_s"), [(False, 3.0), (True, 1.0)], ids=["legacy", "hardened"])
def test_stage_deadline_gives_up_a_call_that_is_far_slower_than_before(
    learned: bool, limit_s: float, job_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After several short calls a hanging one is given up at the learned bound instead of the configured time-out."""
    config = JobConfig(train_workers=1, posture=Posture(stage_deadline=learned))
    job_folder(config)
    monkeypatch.setattr(worker_group, "LEARNED_FLOOR_S", 1.0)
    ticks = count(0.0, 0.01)  # every call takes a hundredth of a second, however busy the machine
    monkeypatch.setattr(worker_group, "time", SimpleNamespace(monotonic=lambda: next(ticks)))
    release = threading.Event()

    def serve(_: str, meta: dict) -> dict:
        assert not meta["arguments"].get("hang") or release.wait(60)
        return {}

    with _group(config, tmp_path, serve) as group:
        for _ in range(7):
            wait_all(group.call("train_batch", "TrainBatchError", 60.0))
        with pytest.raises(TrainEngineError, match=rf"TrainBatchError: train0: Request timeout after {limit_s:.1f}s"):
            wait_all(group.call("train_batch", "TrainBatchError", 3.0, hang=True))
        release.set()


@pytest.mark.parametrize("readiness", [False, True], ids=["legacy", "hardened"])
def test_readiness_tells_busy_from_hung(
    readiness: bool, job_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker in the middle of a call counts as silent in the legacy posture; the hardened one hears what it is doing."""
    config = JobConfig(train_workers=1, posture=Posture(readiness=readiness))
    job_folder(config)
    release, entered = threading.Event(), threading.Event()

    def serve(_: str, __: dict) -> dict:
        entered.set()
        assert release.wait(60)
        return {}

    with _group(config, tmp_path, serve) as group:
        assert group.silent() == []
        busy = group.call("train_batch", "TrainBatchError", 60.0)
        assert entered.wait(60)
        with monkeypatch.context() as patched, StatsTracker(tmp_path / "other.jsonl", "controller") as stats:
            patched.setitem(FLOORS_S, "health", 0.5)
            asking = WorkerGroup(Role.TRAIN, config, stats, TrainEngineError)
            assert asking.silent() == ([] if readiness else ["train0"])
            assert asking._calls[0].status()["serving"] == "train_batch"
        release.set()
        wait_all(busy)


def test_an_engine_is_ready_once_it_is_initialized(job_folder: MakeFolder, tmp_path: Path) -> None:
    """A worker that answers is not ready before its engine is initialized; the public tool and the controller agree on it."""
    config = JobConfig(train_workers=1)
    job_folder(config)
    with StatsTracker(tmp_path / "train0.jsonl", "train0") as stats:
        dispatch = Dispatch("reference0", config, stats)
        server = RpcServer(links.listen("train0", "rpc"), 5.0, dispatch.serve, lambda: dispatch.initialized)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        url = endpoint("http://{}:{}".format(*links.listen_address("train0", "rpc")))
        group = WorkerGroup(Role.TRAIN, config, stats, TrainEngineError)
        assert (group.silent(), group.unready(), look(url, 30.0)) == ([], ["train0"], ("HTTP 200, not initialized", False))
        group.create_engines()
        assert group.unready() == ["train0"]
        group.initialize()
        assert (group.unready(), look(url, 30.0)) == ([], ("HTTP 200", True))
        server.stop()
        thread.join(30)


@pytest.mark.parametrize(("acked", "heard"), [(False, True), (True, False)], ids=["legacy", "hardened"])
def test_acked_events_want_the_event_in_the_answer(acked: bool, heard: bool, job_folder: MakeFolder, tmp_path: Path) -> None:
    """An answer that speaks of another step is good enough for the legacy posture only; the right one is for both."""
    config = JobConfig(train_workers=1, posture=Posture(acked_events=acked))
    job_folder(config)

    def serve(path: str, meta: dict) -> dict:
        assert path == EVENT
        return {"acknowledged": {"event": meta["event"], "global_step": 3}}

    with _group(config, tmp_path, serve) as group:
        assert group.notify("train_start", 3)
        assert group.notify("train_start", 4) == heard


@pytest.mark.parametrize(("acked", "obeyed"), [(False, ["rollout_end", "rollout_start"]), (True, ["rollout_end"])])
def test_an_event_that_is_overtaken_is_answered_and_not_obeyed(
    acked: bool, obeyed: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An event that comes after a later one takes effect in the legacy posture alone; one that is told again does in both.

    Whoever hears one tells how long it took, unless it does not say since when.
    """
    heard: list[str] = []
    with StatsTracker(tmp_path / "rollout0.jsonl", "rollout0") as stats:
        dispatch = Dispatch("rollout0", JobConfig(posture=Posture(acked_events=acked)), stats)
        dispatch._worker = SimpleNamespace(events=("rollout_start", "rollout_end"), hear=heard.append)
        for event, number in (("rollout_end", 2), ("rollout_start", 1)):
            answer, _ = dispatch.serve(EVENT, {"event": event, "global_step": 3, "number": number}, {})
            assert answer == {"acknowledged": {"event": event, "global_step": 3}}
        assert heard == obeyed
        assert ("comes after a later one" in caplog.text) == acked
        since = {"sent_wall_s": time.time() - 5.0}
        for sent in (since, {"sent_wall_s": "now"}, {"sent_wall_s": float("nan")}):
            dispatch.serve(EVENT, {"event": "rollout_end", "global_step": 3, "number": 2, **sent}, {})
        assert heard == [*obeyed, *["rollout_end"] * 3]
    [line] = map(json.loads, (tmp_path / "rollout0.jsonl").read_text().splitlines())
    assert (line["metric"], line["step"]) == ("event/rollout_end/delay_s", 3)
    assert line["value"] >= 5.0


@pytest.mark.parametrize("kept", [False, True], ids=["legacy", "hardened"])
def test_first_cause_is_the_last_error_told(
    kept: bool, job_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A job that fails and cannot reach the scheduler for its cleanup: the last error line is the cleanup's, or the cause."""
    config = JobConfig(train_workers=1, posture=Posture(first_cause=kept))
    folder = job_folder(config)
    cause = TrainEngineError("TrainBatchError", "train0: out of memory")

    def fail(_: JobConfig, scheduler: SchedulerClient, *__: object) -> None:
        scheduler._uids = ["u1", "u2"]
        raise cause

    monkeypatch.setattr(job, "start", fail)
    monkeypatch.setattr(job, "die_by_sigterm", lambda *_: None)
    with pytest.raises(TrainEngineError) as caught:
        job.run(folder.path)
    assert caught.value is cause
    errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    stopping = [record.levelname for record in caplog.records if record.getMessage().startswith("Error stopping job u")]
    if kept:
        assert errors[-1] == "First cause: TrainEngineError: TrainBatchError: train0: out of memory"
        assert stopping == ["WARNING"] * 2
        assert [note.split(":")[0] for note in cause.__notes__] == ["while cleaning up"] * 2
    else:
        assert errors[-1].startswith("Error stopping job u2:")
        assert stopping == ["ERROR"] * 2
        assert not hasattr(cause, "__notes__")


def test_a_cleanup_that_breaks_hides_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Even a cleanup that raises leaves the cause as the last error, with a note."""
    cause = RuntimeError("the cause")

    def broken() -> list[Exception]:
        raise OSError("no disk")

    keep_first_cause(cause, broken)
    assert caplog.records[-1].getMessage() == "First cause: the cause"
    assert cause.__notes__ == ["while cleaning up: no disk"]
