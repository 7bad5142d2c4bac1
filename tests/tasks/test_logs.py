"""The merged view of a run's logs: nothing lost, nothing altered, in order, and only what was asked for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.layout import RunPaths, run_paths
from tasks.logs import LogFilter, compiled, instant, log_lines

LOGS = {
    "controller": b"""\
stray text before any time
2026-03-01 10:00:01.000 INFO controller: start to rollout, step: 7, epoch: 0
2026-03-01 10:00:03.000 ERROR controller: Non-retryable HTTP error: 500 - RolloutError request_id=aaaa1111 request_id=bbbb2222
Traceback (most recent call last):
ValueError: bad \xff byte
""",
    "rollout0": b"""\
2026-03-01 10:00:00.500 INFO rollout0: listening
2026-03-01 10:00:02.000 ERROR rollout0: RolloutError request_id=aaaa1111
2026-03-01 10:00:02.500 INFO rollout0: /call 500 in 0.1s request_id=bbbb2222
Traceback (most recent call last):
KeyError: 1""",
    "rollout1": b"2026-03-01 10:00:02.000 WARNING rollout1: slow\r\n",
}
T0 = 1772359200.0


@pytest.fixture
def run(tmp_path, monkeypatch) -> RunPaths:
    monkeypatch.setenv("FAULTLINE_HOME", str(tmp_path))
    paths = run_paths("r1").create()
    for name, text in LOGS.items():
        (paths.logs / f"{name}.log").write_bytes(text)
    return paths


def told(**wanted) -> list[tuple[str, int]]:
    return [(line.component, line.row.line) for line in log_lines("r1", LogFilter(**wanted))]


def test_all_lines_of_all_processes_in_order_of_time(run):
    """Without a filter every row is there, by time, tracebacks with their line, and equal times by name."""
    first = [("controller", 1), ("rollout0", 1), ("controller", 2), ("rollout0", 2), ("rollout1", 1)]
    assert told() == [*first, ("rollout0", 3), ("rollout0", 4), ("controller", 3)]


def test_a_request_is_followed_over_processes(run):
    """Who served it, who was told of it and who quotes it; and nobody else."""
    assert told(request_id="bbbb2222") == [("rollout0", 3), ("controller", 3)]
    assert told(request_id="aaaa1111") == [("rollout0", 2), ("controller", 3)]
    assert told(request_id="aaaa") == []


@pytest.mark.parametrize(
    ("wanted", "lines"),
    [
        ({"from_s": T0 + 2, "to_s": T0 + 2.5}, [("rollout0", 2), ("rollout1", 1), ("rollout0", 3), ("rollout0", 4)]),
        ({"components": ("rollout",), "level": "WARNING"}, [("rollout0", 2), ("rollout1", 1), ("rollout0", 4)]),
        (
            {"components": ("controller", "rollout1")},
            [("controller", 1), ("controller", 2), ("rollout1", 1), ("controller", 3)],
        ),
        ({"pattern": re.compile("KeyError|ValueError")}, [("rollout0", 4), ("controller", 3)]),
        ({"level": "ERROR", "to_s": T0 + 2.1}, [("rollout0", 2)]),
    ],
)
def test_filters_hold_together(run, wanted, lines):
    """Time window, component or role, level and pattern; a dying process's traceback counts as an error."""
    assert told(**wanted) == lines


def test_bytes_are_as_they_were_written(run):
    """What is printed of each log is that log: no byte is replaced, added or lost."""
    for name, text in LOGS.items():
        assert b"".join(line.raw() for line in log_lines("r1", LogFilter((name,)))) == text


STAMP = st.integers(0, 59).map(lambda second: f"2026-03-01 10:00:{second:02d}.000 INFO x: y".encode())


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(STAMP | st.binary(max_size=6), max_size=8), min_size=1, max_size=4))
def test_merging_keeps_every_line_and_each_logs_order(tmp_path_factory, contents):
    """Whatever the logs, clocks that go back included: each log's own order stands, and no line is lost or told twice."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAULTLINE_HOME", str(tmp_path_factory.mktemp("home")))
        paths = run_paths("r1").create()
        for number, lines in enumerate(contents):
            (paths.logs / f"train{number}.log").write_bytes(b"\n".join(lines))
        found = [(line.component, line.raw()) for line in log_lines("r1", LogFilter())]
        for number, lines in enumerate(contents):
            assert b"".join(raw for component, raw in found if component == f"train{number}") == b"\n".join(lines)


def test_bad_input_is_one_sentence(run):
    """No such run, no such component, no time and no pattern are refused, and what there is is named."""
    with pytest.raises(FileNotFoundError, match="no run 'r9'"):
        log_lines("r9", LogFilter())
    with pytest.raises(ValueError, match="no log of moon; there are: controller, rollout0, rollout1"):
        log_lines("r1", LogFilter(("moon",)))
    with pytest.raises(ValueError, match="no log of moon; there are: "):
        log_lines("r1", LogFilter(("rollout", "moon")))
    for text in ("noon", "+x", "+nan", "2026-13-01"):
        with pytest.raises(ValueError, match=f"not a time: '{re.escape(text)}'; as in the logs"):
            instant(text, "r1")
    with pytest.raises(ValueError, match="not a regular expression"):
        compiled("(")
    assert instant("2026-03-01 10:00:00.250", "r1") == instant("2026-03-01T12:00:00.250+02:00", "r1") == T0 + 0.25


def test_links_are_not_followed(run):
    """A link among the logs is no log of the job."""
    (run.logs / "train0.log").symlink_to(Path("/etc/passwd"))
    assert ("train0", 1) not in told()
