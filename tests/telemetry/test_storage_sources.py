"""NFS mounts as the kernel's client tells them, and small writes to the job's disk, timed by a child."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import pytest

from telemetry.nfs import NFS_METRICS, NfsSource, mounts_of
from telemetry.sync import FILE, SYNC_METRICS, SyncSource

#: In the kernel's own form, a client with two mounts: versions 1.1 (with errors) and 1.0 of the statistics.
MOUNTSTATS = Path(__file__).with_name("mountstats.txt").read_text()


def test_mounts_are_told_from_the_kernels_text(tmp_path):
    """Requests in flight over all transports; rates and time per request from the difference; what did not happen is missed."""
    path = tmp_path / "mountstats"
    path.write_text(MOUNTSTATS)
    source = NfsSource(str(path))
    first = {name: values for _, name, _, values in source.read(10.0)}
    assert first == {"/storage/checkpoints": [3.0, *[None] * 9], "/var/mail": [2.0, *[None] * 9]}
    with path.open("r+") as file:  # the same file, as the kernel's is
        file.write(
            MOUNTSTATS.replace(
                "WRITE: 200 203 1 2130000 27200 4000 96000 100000", "WRITE: 204 209 2 2180000 27700 4000 99000 120000"
            )
            .replace("524288 2097152 128", "524288 2599936 128")
            .replace("COMMIT: 10 10 0 1800 1040 0 5000 5000", "COMMIT: 11 11 0 1900 1140 0 8000 8500")
            .replace("11 600 598", "11 620 604")
        )
    told = {
        name: dict(zip([metric for metric, _ in metrics], values, strict=True))
        for _, name, metrics, values in source.read(12.0)
    }
    assert told["/storage/checkpoints"] == {
        "nfs_in_flight": 17, "nfs_reads_per_s": 0, "nfs_writes_per_s": 2, "nfs_read_bytes_per_s": 0,
        "nfs_write_bytes_per_s": 251392, "nfs_retransmits_per_s": 1, "nfs_timeouts_per_s": 0.5,
        "nfs_read_latency_s": None, "nfs_write_latency_s": 5.0, "nfs_commit_latency_s": 3.5,
    }  # fmt: skip
    assert set(told["/var/mail"]) == {metric for metric, _ in NFS_METRICS} and source.lacks == ""
    source.close()


def test_a_machine_without_nfs_says_so(tmp_path):
    """Other file systems and a mount without statistics tell nothing; a text cut off anywhere raises nothing."""
    plain = MOUNTSTATS.splitlines()[0] + "\ndevice s:/x mounted on /x with fstype nfs4\n"
    path = tmp_path / "mountstats"
    path.write_text(plain)
    source = NfsSource(str(path))
    assert list(source.read(1.0)) == [] and source.lacks == "no NFS is mounted"
    source.close()
    assert list(NfsSource(str(tmp_path / "none")).read(1.0)) == []
    for end in range(len(MOUNTSTATS)):
        assert all(counts["in_flight"] >= 0 for _, counts in mounts_of(MOUNTSTATS[:end]))


@contextmanager
def syncing(tmp_path):
    source = SyncSource(tmp_path / "recover", 5.0)
    try:
        yield source
    finally:
        if source._writer:
            os.kill(source._writer.pid, signal.SIGCONT)
        source.close()


def alone(check, tmp_path):
    """Where no library is that starts threads in forked children, as gRPC does, once another test has imported it."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        pool.submit(check, tmp_path).result(120)


def told(source: SyncSource, mono_s: float) -> list[float | None]:
    deadline = time.monotonic() + 60
    while True:
        found = list(source.read(mono_s))
        if found and found[0][3][1] == 0.0:
            return found[0][3]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_write_is_timed_and_one_that_hangs_is_told_as_waiting(tmp_path):
    """No folder, no rows; then a time; between writes nothing; one that does not end is seen waiting, then answered."""
    alone(hang, tmp_path)


def hang(tmp_path):
    with syncing(tmp_path) as sync:
        assert list(sync.read(0.0)) == []
        while sync._since_s is not None:
            assert list(sync.read(0.0)) == []
        folder = tmp_path / "recover"
        folder.mkdir()
        assert 0 < told(sync, 1.0)[0] < 60
        assert (folder / FILE).stat().st_size == 4096 and list(sync.read(5.9)) == []
        os.kill(sync._writer.pid, signal.SIGSTOP)
        assert list(sync.read(6.0)) == []
        for mono_s, waited_s in ((9.0, 3.0), (60.0, 54.0)):
            ((_, component, metrics, values),) = sync.read(mono_s)
            assert (component, metrics, values) == ("recover", SYNC_METRICS, [None, waited_s])
        os.kill(sync._writer.pid, signal.SIGCONT)
        assert told(sync, 61.0)[0] > 0
        writer = sync._writer
        sync.close()
        assert not Path(f"/proc/{writer.pid}").exists() and list(folder.iterdir()) == []


def test_a_write_that_fails_is_missed_and_a_writer_that_ended_is_replaced(tmp_path):
    """A folder that refuses: null. A writer that was killed: null, and the next write is another's."""
    alone(fail, tmp_path)


def fail(tmp_path):
    with syncing(tmp_path) as sync:
        (tmp_path / "recover" / FILE).mkdir(parents=True)
        assert told(sync, 1.0) == [None, 0.0]
        first = sync._writer
        os.kill(first.pid, signal.SIGKILL)
        assert told(sync, 10.0) == [None, 0.0]
        (tmp_path / "recover" / FILE).rmdir()
        assert told(sync, 20.0)[0] > 0 and sync._writer is not first


def test_without_a_process_to_spare_a_write_is_missed(tmp_path):
    """No child can be made: null, at every beat of its own, and it is tried again."""
    alone(spare, tmp_path)


def spare(tmp_path):
    with syncing(tmp_path) as sync:
        (tmp_path / "recover").mkdir()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("telemetry.sync.os.fork", lambda: (_ for _ in ()).throw(BlockingIOError(11, "no more processes")))
            before = len(list(Path("/proc/self/fd").iterdir()))
            assert list(sync.read(1.0)) == [("machine", "recover", SYNC_METRICS, [None, 0.0])]
            assert list(sync.read(2.0)) == [] and len(list(Path("/proc/self/fd").iterdir())) == before
        assert told(sync, 10.0)[0] > 0
