"""Where the page goes and what is refused; its content is tested in tests/report."""

from __future__ import annotations

from pathlib import Path

import pytest

from storage.layout import reports_dir
from tasks.report import result_table, write_report
from tests.report.synthetic import Synthetic, worker_lost, write_run


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAULTLINE_HOME", str(tmp_path / "home"))


def test_page_lies_in_the_reports_folder_and_is_replaced():
    """The page has the given name; writing it again leaves one file."""
    run = write_run(worker_lost()).run_id
    path = write_report([run, run], "nightly")
    assert path == reports_dir() / "nightly.html" == write_report([run], "nightly")
    assert [file.name for file in reports_dir().iterdir()] == ["nightly.html"]


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a\n", "x" * 101])
def test_name_that_is_no_file_name_is_refused(name):
    """A name cannot lead out of the reports folder."""
    with pytest.raises(ValueError, match="not a report name"):
        write_report([], name)


def test_unknown_run_is_refused_by_name():
    """A run that does not exist is one sentence, and no page is written."""
    with pytest.raises(ValueError, match="unknown run: r404"):
        write_report([write_run(Synthetic()).run_id, "r404"], "x")
    assert not list(reports_dir().iterdir())


def test_page_of_no_run_says_so():
    """A matrix in which nothing ran still has its page."""
    assert "No run." in write_report([], "empty").read_text() and result_table([]) == []
