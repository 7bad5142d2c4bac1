"""The five cross-stage failures of the catalogue, hardened: each is told where its root is, or survived.

Their legacy halves: test_job.py (slow upload, lost rollout worker), test_colocated.py (lost hand-over), test_disk_weights.py
(torn checkpoint); those of the two that have none there are here.
"""

from __future__ import annotations

import resource
import signal
import socket
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from rlhf.arena import MIB, Allocation
from rlhf.config import HARDENED, JobConfig, Posture, Timeouts
from rlhf.resilience.checkpoint import load_checkpoint
from tests.rlhf.job_folder import Hold, JobFolder
from tests.rlhf.relay import deaf_once, redirect, slow_link

pytestmark = pytest.mark.job

MakeFolder = Callable[..., JobFolder]
SMALL = {"steps": 3, "prompts_per_step": 4, "samples_per_prompt": 4}
PAIR = {**SMALL, "train_workers": 1, "rollout_workers": 1}
#: Which posture, and in which stage the error comes out.
LEGACY, HARD = Posture(), HARDENED


def finish(folder: JobFolder, hold: Hold) -> tuple[int, list[str]]:
    """Exit code of the job, and the stages that failed but the last, which is where the job's error came out."""
    folder.start("rlhf.scheduler")
    job = folder.start("rlhf.job", STAGE_SOCKET=str(hold.path), STAGE_DEADLINE_S="60")
    code = job.wait(200)
    scheduler = folder.processes["rlhf.scheduler"]
    scheduler.send_signal(signal.SIGCONT)
    scheduler.terminate()
    assert scheduler.wait(60) == 0, folder.log("scheduler")
    assert folder.living() == []
    return code, [stage for stage, phase in hold.seen if phase == "error"]


def quiet(folder: JobFolder) -> Hold:
    """Only listens."""
    return Hold(folder, "none", -1, lambda: None)


def last_error(folder: JobFolder) -> str:
    """The last line that says ERROR."""
    return [line for line in folder.log("controller").splitlines() if " ERROR " in line][-1]


def raised(folder: JobFolder) -> str:
    """What the job ended with: the last exception of its log."""
    last = [line for line in folder.log("controller").splitlines() if line.startswith("rlhf.errors.")][-1]
    return last.partition(": ")[2]


def test_a_slow_upload_is_told_by_who_uploads(job_folder: MakeFolder) -> None:
    """A1: the worker with the narrow link gives up by itself and says how far it came; that is the job's error."""
    timeouts = Timeouts(update_weights=4.0, upload_weights=4.0, rpc_grace=4.0)
    folder = job_folder(JobConfig(**SMALL, time_scale=1.0, timeouts=timeouts, posture=HARDENED))
    redirect(folder.path, "train1>metaserver:weights", lambda address: slow_link(address, bytes_per_s=20_000))
    code, failed = finish(folder, quiet(folder))
    assert (code, failed) == (1, ["weights_update"])
    text = "TrainEngineError: UploadWeightsError: train1: HTTP 500: Exception: TrainEngineError: UploadWeightsError: "
    assert text in last_error(folder) and "chunks are there" in last_error(folder)
    assert raised(folder).startswith(f"{text}Failed to upload weights of version 0: gave up after ")
    assert "restarted" not in folder.log("controller"), "nobody is lost"


@pytest.mark.parametrize(("posture", "stage"), [(LEGACY, "train"), (HARD, "rollout")], ids=["legacy", "hardened"])
def test_a_rollout_worker_out_of_memory(posture: Posture, stage: str, job_folder: MakeFolder) -> None:
    """A2: an allocation that a limit of memory refuses: legacy it is a batch of the wrong size, in train; hardened, itself."""
    folder = job_folder(JobConfig(**SMALL, posture=posture))

    def limit() -> None:
        pid = folder.registration("rollout1")["pid"]
        used = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
        room = used + 32 * MIB  # for a thread or two, but not for a cache of 48 MiB
        resource.prlimit(pid, resource.RLIMIT_AS, (room, room))

    code, failed = finish(folder, Hold(folder, "rollout", 1, limit))
    assert (code, failed) == (1, [stage])
    dropped = "DistributedBatchMemoryError: Batch size mismatch for key 'group_id': expected 8, got 16"
    assert (dropped in raised(folder)) == (stage == "train")
    assert ("RolloutError: rollout1: " in raised(folder)) == (stage == "rollout")
    assert "t allocate memory" in folder.log("rollout1")


@pytest.mark.parametrize("posture", [LEGACY, HARD], ids=["legacy", "hardened"])
def test_a_train_worker_out_of_memory_amid_a_cleanup_that_hangs(posture: Posture, job_folder: MakeFolder) -> None:
    """A3: a stranger takes the device's memory, then the scheduler answers no more: legacy that is the last error, hardened
    the first one is."""
    timeouts = Timeouts(arena=2.0, stop_job=2.0)
    folder = job_folder(JobConfig(**PAIR, colocated=True, time_scale=1.0, timeouts=timeouts, posture=posture))
    taken: list[Allocation] = []
    hold = Hold(folder, "train", 1, lambda: taken.append(Allocation(folder.path / "arena" / "node0", 0, 16 * MIB)))
    hold.also("cleanup", 1, lambda: folder.processes["rlhf.scheduler"].send_signal(signal.SIGSTOP))
    code, failed = finish(folder, hold)
    taken.pop().free()
    assert (code, failed) == (1, ["train"])
    cause = "TrainEngineError: TrainBatchError: train0: HTTP 500: Exception: TrainEngineError: TrainBatchError: out of memory: "
    log = folder.log("controller")
    assert log.count("Request timeout") == 4, "one for each of services, actor, rollout and reference"
    if posture is HARD:
        assert f"First cause: {cause}" in last_error(folder)
    else:
        assert "Error stopping job" in last_error(folder) and last_error(folder).endswith("Request timeout")
    assert raised(folder).startswith(cause)


def test_a_lost_hand_over_is_told_at_once(job_folder: MakeFolder) -> None:
    """A4: nobody answers the event: that is the error, there and then, and no rollout worker runs out of memory for it."""
    timeouts = Timeouts(event=1.0, arena=60.0)
    folder = job_folder(JobConfig(**PAIR, colocated=True, time_scale=1.0, timeouts=timeouts, posture=HARDENED))
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        redirect(folder.path, "controller>rollout0:event", lambda _: "{}:{}".format(*silent.getsockname()))
        code, failed = finish(folder, quiet(folder))
    assert (code, failed) == (1, ["rollout"])
    assert "InferenceEngineError: NotifyEventError: rollout0: Request timeout after 1.0s" in raised(folder)
    assert "out of memory" not in folder.log("rollout0") and "start to rollout," not in folder.log("controller")


@pytest.mark.parametrize("posture", [pytest.param(LEGACY, marks=pytest.mark.long), HARD], ids=["legacy", "hardened"])
def test_a_hand_over_that_is_only_late(posture: Posture, job_folder: MakeFolder) -> None:
    """A4, the fault over before the rollout: legacy nobody tells the worker again, and it is out of memory; hardened it is told
    again, and the job does all its steps."""
    timeouts = Timeouts(event=1.5, arena=4.0)
    folder = job_folder(JobConfig(**PAIR, colocated=True, time_scale=1.0, timeouts=timeouts, posture=posture))
    redirect(folder.path, "controller>rollout0:event", deaf_once)
    code, failed = finish(folder, quiet(folder))
    if posture is HARD:
        assert (code, failed) == (0, []), folder.log("controller")
        assert "event rollout_start of step 0 is told again" in folder.log("controller")
        assert len(folder.by_step("controller", "reward")) == 3
    else:
        assert (code, failed) == (1, ["rollout"])
        assert "RolloutError: out of memory" in folder.log("rollout0")


def test_a_torn_checkpoint_is_told_by_who_saves(job_folder: MakeFolder) -> None:
    """A5: a save that a full store cuts off is the error, in its own step; the checkpoint before it is whole."""
    folder = job_folder(
        JobConfig(**{**PAIR, "steps": 5}, weight_sync="disk", disk_source="latest", latest_save_interval=2, posture=HARDENED)
    )

    def fill() -> None:
        resource.prlimit(folder.registration("train0")["pid"], resource.RLIMIT_FSIZE, (200_000, 200_000))

    code, failed = finish(folder, Hold(folder, "checkpoint", 2, fill))
    assert (code, failed) == (1, ["checkpoint"])
    assert "TrainEngineError: SaveError: train0: " in raised(folder)
    assert "start to update weight, step: 3," not in folder.log("controller")
    assert load_checkpoint(folder.path / "recover")[1] == 0
