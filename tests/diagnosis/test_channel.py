import io
import json
from pathlib import Path

import pytest

from diagnosis.channel import ChannelReader
from diagnosis.reader import EvidenceReader, OutsideTierError, Reader
from diagnosis.serve import Server
from storage.layout import RunPaths
from storage.records import Diagnosis
from tests.synthetic_case import seal_with_metrics

BUDGET = {"calls": 1000, "bytes": 1 << 20}


class Wire(io.StringIO):
    """Both directions at once: what is written to it is a request, what is read from it the server's reply."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self.server = server
        self.replies: list[str] = []

    def write(self, text: str) -> int:
        self.replies.append(json.dumps(self.server.reply(text.encode())) + "\n")
        return len(text)

    def readline(self, size: int | None = -1) -> str:
        return self.replies.pop(0)


@pytest.fixture
def run(tmp_path: Path) -> RunPaths:
    """A sealed run with metrics and one healthy run."""
    return seal_with_metrics(tmp_path)


def wired(run: RunPaths, tier: str = "T3") -> tuple[ChannelReader, Server]:
    """A reader at one end of the lines and the server at the other."""
    server = Server(run.evidence, tier, BUDGET, io.StringIO())
    wire = Wire(server)
    return ChannelReader(wire, wire), server


def everything(reader: Reader) -> list[object]:
    """One of each question, and the answers."""
    [log] = [path for path in reader.logs() if path.startswith("t0/")]
    asked = [reader.list_files(), reader.healthy_runs(), reader.logs("1"), reader.records(log), reader.read(log, 2, 3)]
    asked += [reader.tail(log, 2), reader.grep("ERROR|INFO", log), reader.list_metrics(), reader.list_metrics("1")]
    asked += [
        reader.query_metric("cpu_ratio"),
        reader.query_metric("cpu_ratio", every_s=2.0, run="1"),
        reader.query_metric("?"),
    ]
    start = reader.query_metric("cpu_ratio")[0]
    return [*asked, reader.query_metric("cpu_ratio", start.subject, start.time_s, start.time_s + 3.0)]


def test_both_ends_tell_the_same_and_count_the_same(run: RunPaths) -> None:
    """Every question has the same answer through the lines as from the files, and costs the same."""
    far, server = wired(run)
    near = EvidenceReader(run.evidence, "T3")
    assert everything(far) == everything(near)
    assert server.reader.meter.to_dict() == near.meter.to_dict()
    assert near.meter.lines > 100


def test_refusals_are_the_same_errors(run: RunPaths) -> None:
    """What lies outside the tier is OutsideTierError and a bad argument ValueError at the asking end, too."""
    far, server = wired(run, "T0")
    with pytest.raises(OutsideTierError, match="is not a file of tier T0"):
        far.read("t1/../../truth/label.json")
    with pytest.raises(ValueError, match="start counts from 1"):
        far.read(far.list_files()[0], start=0)
    assert far.list_metrics() == [] and server.refused == 2


NONSENSE = """
{}
[]
null
{"call": "read"}
{"call": "__init__"}
{"call": "root"}
{"call": "grep", "pattern": "(", "path": "x"}
{"call": "read", "path": {}}
{"call": "submit"}
{"call": "query_metric", "metric": "cpu_ratio", "every_s": -1}"""


def test_nonsense_is_told_and_the_next_question_answered(run: RunPaths) -> None:
    """A request that is none gets an error and spoils nothing."""
    _, server = wired(run)
    lines = [f"{line}\n".encode() for line in NONSENSE.split("\n")]
    for line in [*lines, b"\xff\n", b"{", b"[" * 9999 + b"\n"]:
        assert set(server.reply(line)) == {"error", "kind"}, line
        assert server.reply(b'{"call": "list_files"}\n')["result"] and not server.ended


def test_the_answer_is_taken_once(run: RunPaths) -> None:
    """After the answer there is nothing more to say, and the notes tell every call but not what was answered."""
    notes = io.StringIO()
    server = Server(run.evidence, "T0", BUDGET, notes)
    wire = Wire(server)
    reader = ChannelReader(wire, wire)
    assert set(reader.case()) == {"tier", "budget", "case_id", "vocabulary", "topology", "clock"}
    reader.submit(Diagnosis(fault=False, ranked=(), reason="all is well"))
    assert server.ended and server.answer["reason"] == "all is well"
    assert [json.loads(line)["call"] for line in notes.getvalue().splitlines()] == ["case", "submit"]
    assert "all is well" not in notes.getvalue()
