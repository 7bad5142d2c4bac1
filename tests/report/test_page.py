"""The page: self-contained, escaped, with figures made of the data."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from report.drawing import drawing, printable, to_svg
from report.tables import COLUMNS, markdown_table, text_table
from report.timeline import rows_of, timeline, window_of
from storage.schemas import METRICS
from storage.writer import TableWriter
from tasks.outcome import open_case
from tasks.report import result_table, write_report
from tasks.show import show_run
from tests.report.synthetic import Synthetic, weight_sync, worker_lost, write_run, write_score

HOSTILE = '<script>alert(1)</script> $\\frac{a}{b}$ | `x` \x1b[31m & "quoted"'


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAULTLINE_HOME", str(tmp_path / "home"))


class Elements(HTMLParser):
    """Tags and attributes of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]


def matrix_page() -> str:
    runs = [write_run(Synthetic(seed=seed)) for seed in (1, 2, 3)]
    link, lost = write_run(weight_sync()), write_run(worker_lost())
    write_score(link, "weights_update", "rollout0", "network-bandwidth", right=("stage",), outcome="partial")
    write_score(lost, "train", "controller", "process-kill", right=("kind",), outcome="wrong")
    runs += [link, lost, write_run(Synthetic(scenario="weight-sync-link")), write_run(worker_lost(2, gone=False))]
    return write_report([paths.run_id for paths in runs], "matrix").read_text()


def test_page_holds_everything_and_loads_nothing():
    """No script, no address outside the page, a policy that forbids both; figures are inline and have a description."""
    page = matrix_page()
    found = Elements(page)
    assert not {"script", "link", "iframe", "img", "object"} & set(found.tags)
    loads = [value for name, value in found.attributes if name in ("src", "href", "xlink:href", "action")]
    assert loads and all(value.startswith("#") for value in loads)
    assert "default-src 'none'" in page and not re.search(r"url\((?!#)", page) and "@import" not in page
    assert found.tags.count("svg") >= 6 and page.count('role="img"') == found.tags.count("svg")


def test_ids_are_unique_and_every_reference_has_its_part():
    """Figures on one page do not share ids, and each reference within the page leads somewhere."""
    found = Elements(matrix_page())
    ids = [value for name, value in found.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {value[1:] for name, value in found.attributes if name in ("href", "xlink:href")} <= set(ids)


def test_title_follows_the_data():
    """The title counts what happened: one of two valid fault runs crossed stages; the invalid one is left out and named."""
    page = matrix_page()
    assert "The error came out in another stage than the fault in 1 of 2 valid fault runs" in page
    assert "no: fault f1 (process-kill) is not proven gone" in page and "Experimenter’s page" in page
    same = write_report([write_run(weight_sync(5)).run_id], "one").read_text()
    assert "in another stage than the fault in 0 of 1 valid fault run" in same


def test_text_of_the_job_cannot_break_the_page():
    """Markup, mathematics and control characters in an error stay text, in the page, in its figures and in Markdown."""
    paths = write_run(worker_lost(error_text=f"FrameworkError: {HOSTILE}", target={"type": "process", "component": "<b>x</b>"}))
    page = write_report([paths.run_id], "hostile").read_text()
    found = Elements(page)
    assert "script" not in found.tags and "b" not in found.tags and "&lt;script&gt;" in page
    (row,) = markdown_table(result_table([paths.run_id])).splitlines()[2:]
    assert "<script>" not in row and len(re.findall(r"(?<!\\)\|", row)) == len(COLUMNS) + 1


def test_figure_is_well_formed_and_takes_colours_from_the_page():
    """A drawing is well-formed XML, holds hostile text as text, and no placeholder colour is left."""
    with drawing(4, 2) as (figure, axes):
        axes.set_title(printable(HOSTILE))
        axes.plot([1, 2], [3, 4])
        svg = str(to_svg(figure, "a", HOSTILE.replace("\x1b", "")))
    root = ElementTree.fromstring(svg)
    assert any("<script>alert(1)</script>" in (element.text or "") for element in root.iter())
    assert not re.search(r"#000[0-2][0-9a-f]{2}\b", svg.replace("#000000", "")) and "var(--" in svg


def test_timeline_begins_a_step_before_the_fault_and_holds_the_error():
    """The figure's window holds the fault and the last error; its rows hold the faulty component, also a silent one."""
    case = open_case(write_run(weight_sync()))
    window = window_of(case)
    assert window is not None and window.zero == case.outcome["root"]["wall_s"]
    assert window.holds(case.outcome["final_error"]["wall_s"]) and window.at(window.start) < 0
    assert rows_of(case)[0] == "controller" and "train1" in rows_of(case)
    assert timeline(case) is not None


def test_run_without_records_is_a_gap_on_the_page():
    """A run with no plan, history or tables gives a page that names what is missing, and no figure."""
    paths = write_run(Synthetic())
    for path in (paths.plan, paths.history, *paths.table("logs").iterdir(), *paths.table("metrics").iterdir()):
        path.unlink()
    page = write_report([paths.run_id], "bare").read_text()
    assert "it has no readable plan" in page and "Missing: metrics: no rows" in page and "<svg" not in page


def test_tables_have_a_line_a_run():
    """Tables have a head, a rule and one line a run, also for none; the terminal's tells the first error below it."""
    rows = result_table([write_run(worker_lost()).run_id, write_run(Synthetic()).run_id])
    assert set(rows[0]) == {"run_id", *COLUMNS}
    assert rows[0]["error"] == "train on controller" and rows[0]["expected"] == "yes"
    assert len(markdown_table(rows).splitlines()) == 4 and len(text_table([]).splitlines()) == 2
    lines = text_table(rows).splitlines()
    assert max(len(line) for line in lines) <= 160 and sum(not line.startswith("    ") for line in lines) == 4
    assert any(line.startswith("    first error: controller: FrameworkError") for line in lines)


def test_clocks_that_were_apart_are_told_where_times_are_read():
    """A host that was half a second off is told on the page of its run and by show; of other runs nothing is said."""
    apart, fine = write_run(weight_sync()), write_run(weight_sync(2))
    readings = [("clock_offset_s", 0.5), ("clock_error_s", 0.001)]
    with TableWriter(apart.table("metrics"), METRICS, writer="sampler") as table:
        table.append([(60.0, 60.0, "store", "store", -1, "", metric, "s", value) for metric, value in readings])
    sentence = f"{apart.run_id}: from 00:01:00 to 00:01:00 UTC the clock of store was 0.500 s ahead"
    page = write_report([apart.run_id, fine.run_id], "clocks").read_text()
    assert page.count("the clock of") == page.count(sentence) == 1
    assert sentence in show_run(apart.run_id)["clocks"][0]["told"] and show_run(fine.run_id)["clocks"] == []
