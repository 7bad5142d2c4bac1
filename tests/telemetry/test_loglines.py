"""Job logs as rows: what a line tells is told, nothing is guessed, no byte can stop the reading."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.loglines import MAX_MESSAGE, LogLine, log_columns, parse_log, stage_of, wall_seconds

LOG = """\
booting
2026-03-01 10:00:00.250 INFO controller: start to rollout, step: 7, epoch: 0
2026-03-01 10:00:01.000 WARNING controller: call failed request_id=9f3c22aa method=generate
2026-03-01 10:00:02.000 ERROR controller: [Trainer] start save latest_checkpoint recover info, epoch:0, global_step:8
Traceback (most recent call last):
  File "x.py", line 1, in <module>
ValueError: bad
2026-03-01 10:00:03.000 INFO controller: done
Traceback (most recent call last):
KeyError: 1
"""


def rows_of(text: str | bytes) -> list[LogLine]:
    """The rows of a whole log."""
    return list(parse_log(io.BytesIO(text.encode() if isinstance(text, str) else text)))


def test_a_log_becomes_rows_with_its_tracebacks():
    """Times in UTC seconds; logged tracebacks belong to their line, a dying process's own gets a row without level."""
    rows = rows_of(LOG)
    assert [(row.line, row.level) for row in rows] == [(1, ""), (2, "INFO"), (3, "WARNING"), (4, "ERROR"), (8, "INFO"), (9, "")]
    assert rows[0].wall_s is None and rows[1].wall_s == 1772359200.25 and rows[5].wall_s == rows[4].wall_s
    assert rows[3].text.endswith("ValueError: bad") and rows[3].text.count("\n") == 3
    assert rows[5].text == "Traceback (most recent call last):\nKeyError: 1"


def test_request_step_and_stage_are_told_where_the_line_tells_them():
    """The columns hold what stands in the line, and -1 or empty where it says nothing."""
    columns = log_columns("controller", rows_of(LOG))
    assert columns["step"] == [-1, 7, -1, 8, -1, -1]
    assert columns["stage"] == ["", "rollout", "", "checkpoint", "", ""]
    assert columns["request_id"] == ["", "", "9f3c22aa", "", "", ""]
    assert set(columns["component"]) == {"controller"} and len({len(column) for column in columns.values()}) == 1


def test_a_lines_own_request_id_is_its_last():
    """An error that quotes another process's answer, traceback included, is filed under its own request."""
    log = """\
2026-03-01 10:00:00.250 ERROR controller: Non-retryable HTTP error: 500 - Exception: no request_id=aaaa1111
Traceback (most recent call last):
KeyError: 1 request_id=bbbb2222
"""
    assert log_columns("controller", rows_of(log))["request_id"] == ["bbbb2222"]


@pytest.mark.parametrize(
    ("message", "stage"),
    [
        ("start to update weight, step: 1, epoch: 0", "weights_update"),
        ("rollout update weight succeeded (parallel), step: 1", "weights_update"),
        ("start to notify_rollout_start_event, step: 1", "rollout"),
        ("start to compute_logprobs_with_distributed, step: 2", "reference"),
        ("train succeeded, step: 3", "train"),
        ("anything, stage=cleanup", "cleanup"),
        ("the train left the station", ""),
    ],
)
def test_the_lines_of_the_job_name_their_stage(message, stage):
    """The job's own phrases map to the closed vocabulary; other prose does not."""
    assert stage_of(message) == stage


LINE = (
    st.binary(max_size=40) | st.just(b"2026-03-01 10:00:00.250 INFO train0: x") | st.just(b"Traceback (most recent call last):")
)
LINE_ENDS = st.sampled_from([b"\n", b"\r\n", b"\n\n", b"\r"])


@given(st.lists(st.tuples(LINE, LINE_ENDS), max_size=30), st.binary(max_size=10))
def test_every_byte_is_in_exactly_one_row(lines, rest):
    """Whatever the bytes: the pieces of the raw log that the rows name, one after the other, are the log."""
    log = b"".join(line + end for line, end in lines) + rest
    rows = rows_of(log)
    assert b"".join(log[row.offset : row.offset + row.size] for row in rows) == log
    assert [row.line for row in rows] == [1 + log[: row.offset].count(b"\n") for row in rows]


def test_a_line_without_end_is_read_in_pieces():
    """Three mebibytes without a line end are one row with a cut message, and the line after it has the next number."""
    head = b"2026-03-01 10:00:00.250 INFO train0: "
    rows = rows_of(head + b"x" * (3 << 20) + b"\n" + head + b"next\n")
    assert [row.line for row in rows] == [1, 2] and rows[1].text == "next"
    assert len(rows[0].text) <= MAX_MESSAGE + 20 and rows[0].size == len(head) + (3 << 20) + 1


def test_a_flood_is_cut_and_says_so():
    """A message of unbounded size ends with a mark; memory is bounded by the limit."""
    (row,) = rows_of("\n".join(["2026-03-01 10:00:00.250 INFO train0: x", *["y" * 1000] * 1000, "z" * (2 * MAX_MESSAGE)]))
    assert len(row.text) <= MAX_MESSAGE + 20 and row.text.endswith("... (cut)")


def test_an_instant_that_does_not_exist_is_null():
    """Month 13 is no time, and no crash."""
    assert wall_seconds("2026-13-01 10:00:00.250") is None
