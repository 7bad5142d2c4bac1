"""Five real cases of an earlier day, sealed and revealed then: today's code must still read, check and work them."""

import importlib
import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from diagnosis.answer import parse_diagnosis
from diagnosis.reader import EvidenceReader
from diagnosis.run import MODULES
from diagnosis.sanitise import FORBIDDEN
from diagnosis.vocabulary import TIERS, read_vocabulary
from storage.layout import RunPaths
from storage.records import to_dict
from tasks.answers import REVEAL
from tasks.reveal import check_seal

GOLDEN = Path(__file__).parents[1] / "golden/benchmark.zip"


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunPaths]:
    """The cases as runs of which only the public part is there."""
    folder = tmp_path_factory.mktemp("golden")
    with zipfile.ZipFile(GOLDEN) as archive:
        archive.extractall(folder)
    found = {}
    for entry in json.loads((folder / "index.json").read_text())["cases"]:
        paths = RunPaths(folder / "runs" / entry["case_id"])
        paths.answers.mkdir(parents=True)
        (folder / "cases" / entry["case_id"]).rename(paths.evidence)
        (folder / "reveals" / f"{entry['case_id']}.json").rename(paths.answers / REVEAL)
        found[entry["case_id"]] = paths
    return found


def test_their_seals_still_open(cases: dict[str, RunPaths]) -> None:
    """Every byte is as it was sealed, and each commitment opens with the label and salt that were published."""
    assert len(cases) == 5
    for paths in cases.values():
        assert check_seal(paths) == {"revealed": True, "answers": 0, "refused": [], "problems": []}
    labels = [json.loads((paths.answers / REVEAL).read_text())["label"] for paths in cases.values()]
    assert {label["fault"] for label in labels} == {True, False}


def test_one_changed_byte_is_found(cases: dict[str, RunPaths]) -> None:
    """A digit of a metric, a letter of a log, a word of the manifest: each alone breaks the seal."""
    paths = next(iter(cases.values()))
    changes: dict[str, Callable[[str], str]] = {
        "t3/metrics/machine.jsonl": lambda text: re.sub(r"\d", "7", text, count=1),
        f"t0/{next((paths.evidence / 't0').iterdir()).name}": lambda text: text.replace("start", "Start", 1),
        "manifest.json": lambda text: text.replace("train", "serving", 1),
    }
    for name, change in changes.items():
        path = paths.evidence / name
        whole = path.read_text()
        path.write_text(change(whole) + " ")
        assert check_seal(paths)["problems"], name
        path.write_text(whole)
    assert check_seal(paths)["problems"] == []


def test_nothing_of_the_experimenter_is_in_a_real_case(cases: dict[str, RunPaths]) -> None:
    """No forbidden word, address, path of a machine, rank or year of the run stands in any file but the vocabulary."""
    raw = re.compile(r"\b(?:train|rollout|reference)\d\b|\b10\.98\.|(?<![\w/])/(?:home|root|tmp|var|work)/|\b20[12]\d-\d\d-")
    for paths in cases.values():
        for path in sorted(paths.evidence.rglob("*")):
            if path.is_file() and path.name != "manifest.json":
                text = path.read_text()
                assert not FORBIDDEN.search(text), (path.name, FORBIDDEN.search(text))
                assert not raw.search(text), (path.name, raw.search(text))


def test_every_tier_of_a_real_case_is_full(cases: dict[str, RunPaths]) -> None:
    """Three healthy runs, coarse and fine metrics of every component, the controller's stages; fine holds more than coarse."""
    for paths in cases.values():
        words = read_vocabulary(json.loads((paths.evidence / "manifest.json").read_text()))
        coarse, fine = (EvidenceReader(paths.evidence, tier) for tier in ("T2", "T3"))
        assert coarse.healthy_runs() == fine.healthy_runs() == ["1", "2", "3"]
        assert set(words.components) <= {sample.subject for sample in fine.query_metric("cpu_ratio")}
        few, many = (sum(1 for _ in reader.query_metric("rss_bytes", run="2")) for reader in (coarse, fine))
        assert 0 < few < many
        assert len(coarse.logs("3")) == len(words.components) and coarse.query_metric("timeperf/rollout_step", run="3")


def test_every_diagnoser_has_an_answer_to_every_tier(cases: dict[str, RunPaths]) -> None:
    """On real evidence no diagnoser crashes, and each answer is one that the judge takes."""
    for paths in cases.values():
        manifest = json.loads((paths.evidence / "manifest.json").read_text())
        for module in sorted(set(MODULES.values())):
            for tier in TIERS:
                diagnose = importlib.import_module(f"diagnosis.diagnosers.{module}").diagnose
                said = diagnose(EvidenceReader(paths.evidence, tier), read_vocabulary(manifest))
                parse_diagnosis(json.loads(json.dumps(to_dict(said))), manifest)
