"""Tables in an object store: the same promises as in a folder, against an S3 server on loopback."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer
from pyarrow import fs

from storage.archive import export_run, import_run
from storage.folders import open_folder
from storage.layout import run_paths, runs_dir
from storage.merging import compact_table
from storage.reader import read_table
from storage.schemas import METRICS
from storage.writer import TableWriteError, TableWriter

pytestmark = pytest.mark.job
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    """The port of an S3 server with an empty bucket `shelf`."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield server.get_host_and_port()[1]
    server.stop()


@pytest.fixture
def uri(server, monkeypatch) -> str:
    """A URI with room for a path before its query."""
    for name, value in (("AWS_ACCESS_KEY_ID", "x"), ("AWS_SECRET_ACCESS_KEY", "y"), ("AWS_EC2_METADATA_DISABLED", "true")):
        monkeypatch.setenv(name, value)
    query = f"endpoint_override=http://127.0.0.1:{server}&region=us-east-1&allow_bucket_creation=true"
    fs.FileSystem.from_uri(f"s3://shelf?{query}")[0].create_dir("shelf")
    return f"s3://shelf/{{}}?{query}"


def values(where: str) -> list[float]:
    table, problems = read_table(where, METRICS)
    assert problems == []
    return sorted(table["value"].to_pylist())


def test_a_table_in_a_store_is_a_table(uri):
    """Rows are read back, many flushes become few objects, a restarted writer goes on, compaction leaves one."""
    where = uri.format("runs/r1/tables/metrics")
    assert values(where) == []
    for turn in range(2):
        with TableWriter(where, METRICS, flush_s=3600, writer="w") as writer:
            for number in range(10):
                writer.append({"value": [float(10 * turn + number)]})
                writer.flush()
                assert max(values(where)) == 10 * turn + number
    assert len(open_folder(where).names()) == 2
    assert compact_table(where, METRICS) == []
    assert len(open_folder(where).names()) == 1 and values(where) == [float(n) for n in range(20)]


WRITE = """
import sys
from storage.schemas import METRICS
from storage.writer import TableWriter
where, name = sys.argv[1:]
with TableWriter(where, METRICS, flush_s=3600, writer=name) as writer:
    for number in range(9):
        writer.append({"value": [float(number)], "host": [name]})
        writer.flush()
"""


def test_writers_on_several_hosts_need_no_lock(uri):
    """Processes that know nothing of each other write one table at once, and every row of each is there once."""
    where = uri.format("shared/metrics")
    words = [sys.executable, "-c", WRITE, where]
    writers = [subprocess.Popen([*words, f"host{number}"], cwd=ROOT) for number in range(3)]
    assert [writer.wait(120) for writer in writers] == [0, 0, 0]
    table, problems = read_table(where, METRICS)
    rows = sorted((row["host"], row["value"]) for row in table.to_pylist())
    assert problems == [] and rows == [(f"host{n}", float(number)) for n in range(3) for number in range(9)]


class Gate:
    """Passes connections on to the server until what is sent is to be held; from then on nothing passes, and it says so."""

    def __init__(self, port: int) -> None:
        self.server = ("127.0.0.1", port)
        self.holds: Callable[[bytes], bool] = lambda _: False
        self.shut = threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.ends: list[socket.socket] = [self.listener]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        return self.listener.getsockname()[1]

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                dialler, server = self.listener.accept()[0], socket.create_connection(self.server)
                self.ends += [dialler, server]
                for source, sink in ((dialler, server), (server, dialler)):
                    threading.Thread(target=self._pass, args=(source, sink, source is dialler), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, to_server: bool) -> None:
        with suppress(OSError):
            while data := source.recv(1024):
                if self.shut.is_set() or (to_server and self.holds(data)):
                    self.shut.set()
                    return
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        for end in self.ends:
            end.close()


KILLED = """
import sys
import numpy as np
from storage.schemas import METRICS
from storage.writer import TableWriter
writer = TableWriter(sys.argv[1], METRICS, flush_s=3600, flush_rows=10**9, writer="w")
writer.append({"value": [1.0]})
writer.flush()
print("flushed", flush=True)
sys.stdin.readline()
dice = np.random.default_rng(1)
writer.append({name: dice.random(2_000) for name in ("wall_s", "mono_s", "value")})
writer.flush()
"""


class After:
    """True from that many bytes on."""

    def __init__(self, left_bytes: int) -> None:
        self.left_bytes = left_bytes

    def __call__(self, data: bytes) -> bool:
        self.left_bytes -= len(data)
        return self.left_bytes < 0


def completes(data: bytes) -> bool:
    """Whether it asks for an upload to be made an object of its parts."""
    return data.startswith(b"POST") and b"uploadId=" in data


@pytest.mark.parametrize(("moment", "held"), [("amid a part", After(4_000)), ("before it is completed", completes)])
def test_a_kill_amid_an_upload_leaves_nothing_to_be_seen(uri, server, moment, held):
    """kill -9 with half of a segment sent, or all but the last word: what was there is whole, and a new writer goes on."""
    where, gate = uri.format(f"{moment.replace(' ', '')}/metrics"), Gate(server)
    argv = [sys.executable, "-c", KILLED, where.replace(f":{server}", f":{gate.port}")]
    with subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout.readline() == "flushed\n"
        gate.holds = held
        writer.stdin.write("go on\n")
        writer.stdin.flush()
        while not gate.shut.wait(0.1):
            assert writer.poll() is None
        writer.kill()
        writer.wait()
    gate.close()
    assert values(where) == [1.0]
    with TableWriter(where, METRICS, flush_s=3600, writer="w") as again:
        again.append({"value": [2.0]})
    assert values(where) == [1.0, 2.0]


def test_a_torn_object_is_named(uri):
    """An object whose bytes were cut is named and left out, and the others are read."""
    where = uri.format("torn/metrics")
    for name in ("good", "bad"):
        with TableWriter(where, METRICS, writer=name) as writer:
            writer.append({"value": [1.0 if name == "good" else 2.0]})
    folder = open_folder(where)
    victim = next(name for name in folder.names() if "bad" in name)
    folder.write(victim, folder.read(victim)[:-5])
    table, problems = read_table(where, METRICS)
    assert table["value"].to_pylist() == [1.0] and len(problems) == 1 and victim in problems[0]


def test_a_store_that_is_away_keeps_the_rows(uri, monkeypatch):
    """While the store refuses, a flush says so in one sentence; when it is back the rows are stored."""
    with TableWriter(uri.format("away/metrics"), METRICS, flush_s=3600) as writer:
        writer.append({"value": [1.0]})
        there, writer.folder = (
            writer.folder,
            open_folder(uri.format("x").replace("shelf", "no-such-bucket").replace("&allow_bucket_creation=true", "")),
        )
        with pytest.raises(TableWriteError, match=r"cannot store 1 rows of table x: .*; earlier segments are intact"):
            writer.flush()
        writer.folder = there
    assert values(uri.format("away/metrics")) == [1.0]


def test_an_archive_goes_through_a_store(uri, tmp_path, monkeypatch):
    """A run exported to a store comes back from it; a store that refuses is an OSError, and nothing is left in the home."""
    monkeypatch.setenv("FAULTLINE_HOME", str(tmp_path / "one"))
    paths = run_paths("r1").create()
    (paths.logs / "train0.log").write_bytes(b"words\n")
    where = uri.format("archives/r1.tar.zst")
    facts = export_run("r1", where)
    monkeypatch.setenv("FAULTLINE_HOME", str(tmp_path / "two"))
    assert import_run(where, facts["fingerprint"])["run_id"] == "r1"
    assert (run_paths("r1").logs / "train0.log").read_bytes() == b"words\n"
    with pytest.raises(OSError, match="not-there"):
        import_run(uri.format("archives/not-there"))
    assert [path.name for path in runs_dir().iterdir()] == ["r1"]


def test_a_place_of_an_unknown_kind_is_refused():
    """A URI that no file system answers to is a ValueError in one sentence."""
    with pytest.raises(ValueError, match="not a place to store tables: 'nonsense://x'"):
        open_folder("nonsense://x/y".replace("/y", ""))
