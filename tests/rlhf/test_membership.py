"""Workers that fall silent: in the whole job, with heartbeats and without."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, ThreadPoolExecutor, wait
from datetime import datetime
from pathlib import Path

import pytest

from rlhf import beats, links, wire
from rlhf.config import FLOORS_S, JobConfig, Posture, Timeouts
from rlhf.errors import FrameworkError, InferenceEngineError, TrainEngineError
from rlhf.membership import Membership
from rlhf.rpc_server import RpcServer
from rlhf.stats import StatsTracker
from rlhf.topology import beating
from rlhf.weights import WeightStore
from rlhf.worker_group import WorkerGroup, wait_all
from storage.records import Role
from tests.rlhf.job_folder import Hold, JobFolder
from tests.rlhf.told import check_told

pytestmark = pytest.mark.job

BEATING = Posture(heartbeats=True)
SMALL = {"train_workers": 1, "prompts_per_step": 4, "samples_per_prompt": 4}
STAMP = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}) (\w+) \w+: (.*)$", re.M)


def _finish(folder: JobFolder, job: subprocess.Popen[bytes]) -> int:
    code = job.wait(280)
    folder.processes["rlhf.scheduler"].terminate()
    assert folder.processes["rlhf.scheduler"].wait(60) == 0, folder.log("scheduler")
    assert folder.living() == []
    return code


def _stop(folder: JobFolder, component: str) -> None:
    os.kill(folder.registration(component)["pid"], signal.SIGSTOP)


def _go_on(folder: JobFolder, component: str) -> None:
    os.kill(folder.registration(component)["pid"], signal.SIGCONT)


def _said(folder: JobFolder, level: str) -> list[str]:
    return [text for _, seen, text in STAMP.findall(folder.log("controller")) if seen == level]


def _at_s(folder: JobFolder, text: str) -> float:
    """When the controller first said something that begins so, seconds."""
    stamp = next(at for at, _, said in STAMP.findall(folder.log("controller")) if said.startswith(text))
    return datetime.fromisoformat(stamp).timestamp()


def _start_holding(folder: JobFolder, stage: str, step: int, act: Callable[[], object]) -> subprocess.Popen[bytes]:
    hold = Hold(folder, stage, step, act)
    folder.start("rlhf.scheduler")
    return folder.start("rlhf.job", STAGE_SOCKET=str(hold.path), STAGE_DEADLINE_S="60")


def test_a_silent_rollout_worker_is_offline_skipped_and_taken_back(job_folder: Callable[[JobConfig], JobFolder]) -> None:
    """Stopped while it samples: one WARNING after three intervals and before the next check but one, its share goes to the
    other, steps go on whole; once it beats again it takes the weights of the step and samples."""
    config = JobConfig(**SMALL, steps=100, posture=BEATING, time_scale=30.0)
    folder = job_folder(config)
    job = _start_holding(folder, "rollout", 3, lambda: _stop(folder, "reward"))
    folder.wait_for_line("controller", "start to rollout, step: 3,", job)
    _stop(folder, "rollout1")  # it cannot have been scored yet
    _go_on(folder, "reward")
    folder.wait_for_line("train0", "neighbours that are offline: rollout1", job)
    sampled = len(folder.stats("rollout1", "batch_samples"))
    _go_on(folder, "rollout1")
    folder.wait_for_line("controller", "rollout1 is back", job)
    assert _finish(folder, job) == 0, folder.log("controller")
    [warning] = _said(folder, "WARNING")
    assert 3.0 <= float(re.fullmatch(r"rollout1 is offline: no beat for ([\d.]+) s", warning)[1]) <= 5.0
    assert "the share of rollout1 goes to rollout0" in folder.log("controller")
    assert folder.stats("controller", "batch_samples") == [16.0] * config.steps
    assert len(folder.stats("rollout1", "batch_samples")) > sampled + 1, "one that nobody waited for, and then its own"
    lines = map(json.loads, (folder.path / "stats" / "rollout1.jsonl").read_text().splitlines())
    taken = [
        (line["step"], line["value"]) for line in lines if (line["metric"], line["stage"]) == ("weights_version", "rollout")
    ]
    assert taken and all(step == version for step, version in taken), "it samples with the weights of the step alone"
    assert _said(folder, "ERROR") == []
    assert (
        folder.stats("controller", "heartbeat/offline_count") == folder.stats("controller", "heartbeat/rejoin_count") == [1.0]
    )
    assert max(folder.stats("controller", "heartbeat/missed_count")) >= 2


def test_who_is_well_but_cannot_be_heard_is_left_and_skipped(job_folder: Callable[[JobConfig], JobFolder]) -> None:
    """With restarts besides: one whose beats never arrive is restarted three times, then skipped as without restarts; every
    step goes on whole, by the other, which is not restarted for it."""
    posture = Posture(heartbeats=True, restart=True, partial_rollout="abort")
    config = JobConfig(**SMALL, steps=600, posture=posture, time_scale=30.0)
    folder = job_folder(config)
    table = json.loads((folder.path / "addresses.json").read_text())
    table["dial"]["rollout1>controller:beat"] = "127.0.0.1:1"
    (folder.path / "addresses.json").write_text(json.dumps(table))
    folder.start("rlhf.scheduler")
    assert _finish(folder, folder.start("rlhf.job")) == 0, folder.log("controller")
    [loop] = _said(folder, "ERROR")
    assert loop.startswith("restart loop: rollout1 was restarted 3 times")
    warnings = _said(folder, "WARNING")
    assert sum("rollout1 is lost and will be restarted" in line for line in warnings) == 3
    assert sum("will be restarted" in line for line in warnings) == 3
    assert "rollout1 is not restarted any more and is skipped until it is heard" in warnings
    assert folder.stats("controller", "batch_samples") == [16.0] * config.steps


def test_without_heartbeats_the_whole_time_out_is_waited(job_folder: Callable[[JobConfig], JobFolder]) -> None:
    """The same worker stopped in the legacy posture: nobody listens for beats, and the rollout's time-out passes first."""
    config = JobConfig(**SMALL, steps=60, timeouts=Timeouts(rollout=1800.0))
    folder = job_folder(config)
    job = _start_holding(folder, "rollout", 3, lambda: _stop(folder, "rollout1"))
    assert _finish(folder, job) == 1
    waited_s = _at_s(folder, "rollout1 generate: Request timeout") - _at_s(folder, "start to rollout, step: 3,")
    assert waited_s >= config.timeout_s("rollout") == 5.0
    assert "offline" not in folder.log("controller") and "beat" not in folder.registration("controller")["ports"]
    assert "Batch size mismatch" in folder.log("controller")


def test_below_the_threshold_training_pauses_and_resumes(job_folder: Callable[[JobConfig], JobFolder]) -> None:
    """All four workers are needed and one is stopped: nothing is begun, which is said once, until it goes on."""
    config = JobConfig(**SMALL, steps=12, posture=BEATING, min_clients_threshold=4, time_scale=30.0)
    folder = job_folder(config)
    job = _start_holding(folder, "weights_update", 3, lambda: _stop(folder, "rollout1"))
    folder.wait_for_line("controller", "training pauses: 3 of 4 clients needed are alive", job)
    time.sleep(1.0)
    assert "rollout succeeded, step: 3," not in folder.log("controller") and job.poll() is None
    _go_on(folder, "rollout1")
    assert _finish(folder, job) == 0, folder.log("controller")
    said = _said(folder, "INFO")
    assert sum("training pauses" in line for line in said) == sum("training resumes: 4" in line for line in said) == 1
    assert len(_said(folder, "WARNING")) == 1 and _said(folder, "ERROR") == []
    assert max(folder.stats("controller", "heartbeat/paused_s")) > 1.0
    check_told(folder, "heartbeats", "lost", "paused")
    assert folder.stats("controller", "batch_samples") == [16.0] * config.steps


def _serve(component: str, answer: Callable[[str], dict[str, float]]) -> RpcServer:
    """A worker that answers each call with ``answer(method)``."""
    server = RpcServer(links.listen(component, "rpc"), 30.0, lambda _, meta, __: (answer(meta["method"]), {}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.fixture
def members(job_folder: Callable[[JobConfig], JobFolder], monkeypatch: pytest.MonkeyPatch) -> Iterator[Membership]:
    """Two train and two rollout workers, all of which are needed, at a pace at which nobody is silent by accident."""
    config = JobConfig(posture=BEATING, time_scale=1.0, min_clients_threshold=5, timeouts=Timeouts(min_clients=0.2))
    monkeypatch.setitem(FLOORS_S, "min_clients", 0.2)
    folder = job_folder(config)
    with StatsTracker(folder.path / "stats" / "controller.jsonl", "controller") as stats:
        made = Membership(config, stats)
        made.begin(beating(config))
        yield made
        made.close()


def _group(members: Membership, role: Role) -> WorkerGroup:
    error = TrainEngineError if role is Role.TRAIN else InferenceEngineError
    group = WorkerGroup(role, members._config, members._stats, error)
    group.heed(members)
    return group


def test_a_pause_has_a_bound(members: Membership) -> None:
    """Too few workers for longer than a pause may last is an error that says how many and who; a server does not count."""
    members.mark_offline("metaserver", "no beat for 90.1 s")
    members.wait_for_enough()
    members.mark_offline("rollout1", "no beat for 90.1 s")
    with pytest.raises(FrameworkError) as caught:
        _group(members, Role.ROLLOUT).call("generate", "RolloutError", 60.0)
    told = "training has paused for 0.2s: fewer than 5 workers are online; offline: metaserver, rollout1"
    assert str(caught.value) == f"FrameworkError: MinClientsError: {told}"
    members.expect(["rollout1"])
    members.wait_for_enough()


def test_a_lost_connection_is_absence_too(members: Membership, caplog: pytest.LogCaptureFixture) -> None:
    """A worker that breaks a call off is offline at once; its share goes to the other; its next beat brings it back."""
    members._detector._min_clients = 0

    def die(_: str) -> dict[str, float]:
        group._calls[1].cut()  # what its end would do to the connection
        return {}

    servers = [_serve("rollout0", lambda _: {"by": 0.0}), _serve("rollout1", die)]
    group = _group(members, Role.ROLLOUT)
    replies = wait_all(group.call("generate", "RolloutError", 60.0, ranks=[0, 1], offline="move"))
    assert [figures for figures, _ in replies] == [{"by": 0.0}] * 2
    offline = [text for text in map(logging.LogRecord.getMessage, caplog.records) if text.startswith("rollout1 is offline")]
    assert len(offline) == 1 and "Connection lost" in offline[0]
    assert group.online() == [0]
    members._detector.beat("rollout1")
    assert group.online() == [0, 1]
    for server in servers:
        server.stop()


@pytest.mark.parametrize(("role", "lost", "failed"), [(Role.TRAIN, "train1", 2), (Role.ROLLOUT, "rollout1", 1)])
def test_calls_of_the_lost_end_at_once(members: Membership, role: Role, lost: str, failed: int) -> None:
    """A call of two hours ends when its worker goes offline; of train ranks all do, since they wait for each other."""
    members._detector._min_clients = 0
    release, entered = threading.Event(), threading.Semaphore(0)

    def hang(_: str) -> dict[str, float]:
        entered.release()
        assert release.wait(120)
        return {}

    servers = [_serve(name, hang) for name in (f"{role}0", f"{role}1")]
    group = _group(members, role)
    futures = group.call("generate", "RolloutError", 7200.0)
    for _ in futures:
        assert entered.acquire(timeout=60)
    members.mark_offline(lost, "no beat for 90.1 s")
    ended = wait(futures, timeout=60, return_when=FIRST_COMPLETED if failed == 1 else ALL_COMPLETED).done
    assert len(ended) == failed
    assert all(f"{lost} is offline: no beat for 90.1 s" in str(future.exception()) for future in ended)
    release.set()
    wait(futures)
    for server in servers:
        server.stop()


def test_beats_leave_from_the_workers_own_address(
    job_folder: Callable[[JobConfig], JobFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is dialled is the link, from the address that the name table gives the worker: cutting that cuts the beats."""
    config = JobConfig(posture=BEATING)
    folder = job_folder(config)
    table = json.loads((folder.path / "addresses.json").read_text())
    table["bind"]["rollout0"] = "127.0.0.9"
    (folder.path / "addresses.json").write_text(json.dumps(table))
    with (
        links.listen("controller", "beat") as listener,
        StatsTracker(folder.path / "stats" / "rollout0.jsonl", "rollout0") as stats,
    ):
        beats.start("rollout0", config, stats)
        listener.settimeout(60)
        stream, (source, _) = listener.accept()
        assert source == "127.0.0.9" and stream.recv(3) == b"PRI"
        stream.close()
        assert beats._sender is not None
        beats._sender.stop()
    monkeypatch.setattr(beats, "_sender", None)


def test_the_metaserver_may_be_the_controllers(job_folder: Callable[[JobConfig], JobFolder]) -> None:
    """With posture `metaserver: controller` weights travel through a thread of the controller's process."""
    config = JobConfig(**SMALL, steps=2, posture=Posture(metaserver="controller", heartbeats=True))
    folder = job_folder(config)
    folder.start("rlhf.scheduler")
    assert _finish(folder, folder.start("rlhf.job")) == 0, folder.log("controller")
    assert folder.registration("metaserver")["pid"] == folder.registration("controller")["pid"]
    assert "stored v1/shard0" in folder.log("controller") and folder.log("metaserver") == ""
    assert _said(folder, "WARNING") == [] and max(folder.stats("rollout0", "weights_version")) == 1


def test_who_waits_for_a_lost_server_is_told(
    job_folder: Callable[[JobConfig], JobFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that waits at the MetaServer gives up when that is told to be offline, or the worker whose shard is missing."""
    config = JobConfig(posture=BEATING)
    job_folder(config)
    monkeypatch.setattr(beats, "_offline", frozenset())
    monkeypatch.setattr(beats, "_asked_s", 0.0)
    store = WeightStore("rollout0", config)
    with links.listen("metaserver", "weights") as listener, ThreadPoolExecutor() as pool:
        waiting = pool.submit(store.fetch, 3, 2)
        stream, _ = listener.accept()
        stream.recv(65536)
        beats._hear(0.0, frozenset({"metaserver"}))  # asked before the wait began: it may have come back since
        assert not waiting.done()
        beats._hear(time.monotonic(), frozenset({"metaserver"}))
        with pytest.raises(InferenceEngineError, match="UpdateWeightError: Failed to update weights: Connection aborted"):
            waiting.result(60)
        stream.close()
        waiting = pool.submit(store.fetch, 3, 2)
        stream, _ = listener.accept()
        stream.recv(65536)
        beats._hear(time.monotonic(), frozenset({"train0"}))
        body = b'{"has_key": false}'
        stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        with pytest.raises(InferenceEngineError, match="v3/shard0 is not there, and train0 is offline"):
            waiting.result(60)
        stream.close()


@pytest.mark.parametrize(("acked", "breaks", "asked", "heard"), [(False, 1, 1, False), (True, 2, 3, True), (True, 3, 3, False)])
def test_a_message_is_sent_three_times_and_then_the_neighbour_is_offline(
    acked: bool, breaks: int, asked: int, heard: bool, job_folder: Callable[[JobConfig], JobFolder], tmp_path: Path
) -> None:
    """An event whose connection breaks is lost with one warning in the legacy posture; with acknowledgements and `grpc_send` it
    is sent three times, and who has not heard it then is offline, and skipped, until its next beat."""
    posture = Posture(retry="grpc_send", acked_events=acked, heartbeats=True)
    config = JobConfig(rollout_workers=1, posture=posture)
    job_folder(config)
    connections: list[int] = []

    def serve(listener: socket.socket) -> None:
        while len(connections) < asked:
            stream, _ = listener.accept()
            connections.append(1)
            stream.recv(65536)
            if len(connections) > breaks:
                body = wire.encode({"acknowledged": {"event": "rollout_start", "global_step": 3}}, {})
                stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            stream.close()

    with StatsTracker(tmp_path / "controller.jsonl", "controller") as stats, links.listen("rollout0", "event") as listener:
        members = Membership(config, stats)
        members.begin(beating(config))
        group = WorkerGroup(Role.ROLLOUT, config, stats, InferenceEngineError)
        group.heed(members)
        serving = threading.Thread(target=serve, args=(listener,), daemon=True)
        serving.start()
        group.notify("rollout_start", 3)
        serving.join(60)
        assert len(connections) == asked
        assert (group.online() == [0]) == heard
        members._detector.beat("rollout0")
        assert group.online() == [0]
        members.close()


def test_an_event_to_one_that_is_lost_is_not_told_again(
    job_folder: Callable[[JobConfig], JobFolder], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An acknowledged event that hangs is given up with its receiver, and the one warning is that of its absence."""
    config = JobConfig(rollout_workers=1, posture=Posture(retry="backoff", acked_events=True, heartbeats=True))
    job_folder(config)
    with StatsTracker(tmp_path / "controller.jsonl", "controller") as stats, links.listen("rollout0", "event") as listener:
        members = Membership(config, stats)
        members.begin(beating(config))
        group = WorkerGroup(Role.ROLLOUT, config, stats, InferenceEngineError)
        group.heed(members)
        with ThreadPoolExecutor() as pool:
            told = pool.submit(group.notify, "rollout_start", 3)
            stream, _ = listener.accept()
            assert stream.recv(65536)
            members.mark_offline("rollout0", "no beat for 3.1 s")
            told.result(60)
        stream.close()
        members.close()
    warnings = [record.getMessage() for record in caplog.records if record.levelname in ("WARNING", "ERROR")]
    assert warnings == ["rollout0 is offline: no beat for 3.1 s"]
