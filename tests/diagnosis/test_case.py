import hashlib
import json
import random
import re
import stat
from pathlib import Path

import pytest

from diagnosis.case import build_case, neutral_names
from diagnosis.copying import CaseSource
from diagnosis.reader import EvidenceReader
from diagnosis.sanitise import FORBIDDEN
from diagnosis.topology import read_topology
from storage.layout import RunPaths
from tests.synthetic_case import row
from tests.synthetic_job import CANARY, ROLES, make_run

ROWS = [
    *(row(name, "cpu_ratio", tick / 2, float(index + tick % 2)) for index, name in enumerate(ROLES) for tick in range(50)),
    *(row(name, "group_oom_kills", 1.0, 0.0) for name in ROLES),
    row("train1", "group_memory_limit_bytes", 1.0, 3e8),
    row("controller", "timeperf/train_step", 5.25, 1.5, 0, "train"),
    row("controller", "timeperf/train_step", 6.25, 2.5, 1, "train"),
    row("train1", "loss", 3.0, float("nan"), 0, "train"),
    row("train1>metaserver:weights", "link_rtt_s", 2.0, None),
    row("trainers", "net_rx_bytes_per_s", 2.0, 1 / 3),
    row("machine", "host_cpu_ratio", 2.0, 0.5),
    row("trainers:eth0", "net_errors_per_s", 2.0, 0.0),
    row("trainers:hog", "net_errors_per_s", 2.0, 7.0),
    *(row(name, "cpu_ratio", 2.0, 0.25) for name in ("burner", "hog7")),
    row("train1", "prefect_runs", 2.0, 1.0),
]


def build(paths: RunPaths, seed: int, name: str = "evidence") -> tuple[dict[str, object], dict[str, str], Path]:
    """A case of the run with draws from ``seed``: (manifest, component -> neutral name, folder)."""
    topology, draw = read_topology(paths.registry, paths.addresses), random.Random(seed)
    names = neutral_names(topology, draw)
    source = CaseSource(paths.job, paths.logs, topology, strange=(paths.run_id,), metrics=ROWS)
    folder = paths.root / name
    return build_case(source, [source], names, folder, lambda _: "0" * 64, draw), dict(names.components), folder


def texts(folder: Path) -> dict[str, str]:
    """Every byte of a case as text, by path, the paths themselves included."""
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_nothing_of_the_truth_or_the_machine_in_any_byte(tmp_path: Path) -> None:
    """No canary, forbidden word, component, address, pid, run id or home path stands anywhere in a case."""
    extra = f"2026-10-10 12:00:09.000 INFO train1: tag {CANARY}-fault\n2026-10-10 12:00:09.500 INFO train1: peer 172.16.0.3\n"
    paths = make_run(tmp_path, train1=extra)
    manifest, _, folder = build(paths, 1)
    for name, text in texts(folder).items():
        if name == "manifest.json":
            # The closed vocabulary is public and holds the kinds' names; all else in the manifest must be clean.
            public = {**manifest, "vocabulary": {**manifest["vocabulary"], "kinds": []}}  # type: ignore[dict-item]
            text = json.dumps(public)
        assert CANARY not in text and paths.run_id not in text and str(tmp_path) not in text
        assert not FORBIDDEN.search(text), name
        assert not re.search(r"10\.98|172\.16|\b(train|rollout|reference)\d|2026-|pid \d", text), name
    assert manifest["sanitiser"]["lines_dropped"] == {"forbidden word": 1, "unknown address": 1}  # type: ignore[index]


def test_one_name_for_one_component_in_all_files(tmp_path: Path) -> None:
    """A component is renamed alike in its file's name, its own lines, and wherever others mention it."""
    paths = make_run(tmp_path)
    manifest, names, folder = build(paths, 2)
    for component, neutral in names.items():
        log = folder / ("t0" if component == "controller" else "t1") / f"{neutral}.log"
        assert log.read_text().splitlines()[0].endswith(f"{neutral}: listening on {neutral}:{_port(component)}, pid {neutral}")
    assert f"http://{names['rollout1']}:rpc/call" in (folder / "t0" / f"{names['controller']}.log").read_text()
    topology = manifest["topology"]["components"]  # type: ignore[index]
    assert {names[name]: name.rstrip("01") for name in ROLES} == {name: facts["role"] for name, facts in topology.items()}


def _port(component: str) -> str:
    return "rpc" if component[-1].isdigit() else "other"


def test_renaming_is_equivariant(tmp_path: Path) -> None:
    """Two sealings of one run differ by names and a constant shift of the clock, and by nothing else."""
    paths = make_run(tmp_path)
    cases = [build(paths, seed, f"evidence{seed}") for seed in (3, 4)]
    plain: list[dict[str, str]] = [
        {own: _restored((folder / _log(own, names)).read_text(), names) for own in names} for _, names, folder in cases
    ]
    assert plain[0] == plain[1]
    assert set(cases[0][1].values()) != set(cases[1][1].values())


def _log(component: str, names: dict[str, str]) -> str:
    return f"{'t0' if component == 'controller' else 't1'}/{names[component]}.log"


def _restored(text: str, names: dict[str, str]) -> str:
    for own, neutral in names.items():
        text = text.replace(neutral, own)
    return re.sub(r"^\S+ \d\d:\d\d:\d\d", "", text, flags=re.MULTILINE)


def test_every_component_has_its_files_even_if_it_never_spoke(tmp_path: Path) -> None:
    """A component without a log or a metric has empty files: a missing file would be a hint."""
    paths = make_run(tmp_path)
    (paths.logs / "train1.log").unlink()
    _, names, folder = build(paths, 5)
    assert (folder / "t1" / f"{names['train1']}.log").read_bytes() == b""
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    per_component = {name: sorted(f.replace(name, "") for f in files if name in f and f[:2] != "t0") for name in names.values()}
    controller = per_component.pop(names["controller"])
    assert [files for files in per_component.values() if files != ["t1/.log", *controller]] == []


def test_tiers_are_nested(tmp_path: Path) -> None:
    """Each tier holds the one before: T0 one log, T1 every log, T2 coarse figures and healthy runs, T3 fine figures."""
    manifest, names, _ = build(make_run(tmp_path), 5)
    tiers = {name: set(paths) for name, paths in manifest["tiers"].items()}  # type: ignore[attr-defined]
    assert tiers["T0"] == {f"t0/{names['controller']}.log"} < tiers["T1"] < tiers["T2"] < tiers["T3"]
    assert tiers["T3"] == set(manifest["files"])  # type: ignore[arg-type]
    assert not any("t3/" in path for path in tiers["T2"])
    assert any(path.startswith("t2/healthy/1/logs/") for path in tiers["T2"])


def test_metrics_are_told_in_the_names_and_the_clock_of_the_case(tmp_path: Path) -> None:
    """Fine metrics are the job's samples; whoever is no part of the job is pooled; what only a held process has is left out."""
    manifest, names, folder = build(make_run(tmp_path), 6)
    reader = EvidenceReader(folder, "T3")
    listed = {found.metric: found.subjects for found in reader.list_metrics()}
    assert "group_memory_limit_bytes" not in listed and "group_oom_kills" in listed
    assert manifest["sanitiser"]["series_left_out"] == {"forbidden word": 1, "not of every process": 1}  # type: ignore[index]
    assert set(listed["cpu_ratio"]) == {*names.values(), "other"}
    assert listed["link_rtt_s"] == (f"{names['train1']}>{names['metaserver']}:weights",)
    assert [sample.value for sample in reader.query_metric("cpu_ratio", "other")] == [0.5]
    assert {subject[0]: subject[6:] for subject in listed["net_errors_per_s"]} == {"n": ":eth0", "o": ""}
    assert reader.query_metric("link_rtt_s")[0].value is None and reader.query_metric("loss")[0].value is None
    assert reader.query_metric("net_rx_bytes_per_s")[0].value == 0.333333
    [first, second] = reader.query_metric("timeperf/train_step")
    assert (first.step, first.stage, first.value, second.time_s - first.time_s) == (0, "train", 1.5, 1.0)
    opening = reader.records(reader.logs()[0])[0].time_s
    assert opening - 0.017 + 5.25 == pytest.approx(first.time_s)
    assert len(reader.query_metric("cpu_ratio", names["train1"], run="1")) == 50


def test_coarse_metrics_are_means_and_stage_totals(tmp_path: Path) -> None:
    """On T2 a sampled metric has one mean for each ten seconds, a stage's total stays one a step."""
    manifest, names, folder = build(make_run(tmp_path), 6)
    reader = EvidenceReader(folder, "T2")
    means = reader.query_metric("cpu_ratio", names["controller"])
    start_s = manifest["clock"]["start_s"]  # type: ignore[index]
    assert [(sample.time_s - start_s, sample.value) for sample in means] == [(0.0, 0.5), (10.0, 0.5), (20.0, 0.5)]
    assert [sample.step for sample in reader.query_metric("timeperf/train_step")] == [0, 1]


def test_case_is_frozen_and_hashed(tmp_path: Path) -> None:
    """Files are read-only with one modification time, and the manifest holds the hash and size of each."""
    manifest, _, folder = build(make_run(tmp_path), 6)
    paths = sorted(folder.rglob("*"))
    assert len({path.stat().st_mtime for path in paths}) == 1
    assert not any(path.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH) for path in [folder, *paths])
    for name, facts in manifest["files"].items():  # type: ignore[attr-defined]
        data = (folder / name).read_bytes()
        assert facts == {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def test_a_host_of_its_own_address_is_known(tmp_path: Path) -> None:
    """A host's own address, which only the place knows, becomes the host's neutral name, and the line stays."""
    told = "2026-10-10 12:00:09.000 ERROR train0: [/__w/gloo/pair.cc:5] Connection closed by peer [10.98.0.20]:4711\n"
    paths = make_run(tmp_path, train0=told)
    topology, draw = read_topology(paths.registry, paths.addresses, {"trainers": "10.98.0.20"}), random.Random(10)
    names = neutral_names(topology, draw)
    build_case(CaseSource(paths.job, paths.logs, topology), [], names, paths.root / "evidence", lambda _: "", draw)
    log = (paths.root / "evidence" / "t1" / f"{names.components['train0']}.log").read_text()
    assert log.splitlines()[-1].endswith(f"[pair.cc:5] Connection closed by peer {names.hosts['trainers']}:other")


def test_a_case_is_built_once(tmp_path: Path) -> None:
    """Building over a sealed case is refused."""
    paths = make_run(tmp_path)
    build(paths, 7)
    with pytest.raises(FileExistsError):
        build(paths, 8)


def test_broken_bytes_do_not_stop_the_sealing(tmp_path: Path) -> None:
    """A log with binary rubbish and odd line ends becomes evidence of the same number of lines or fewer."""
    paths = make_run(tmp_path)
    raw = (paths.logs / "train0.log").read_bytes() + b"\xff\xfe\x00 torn\r\x0b\xe2\x80\xa8 half\n\n"
    (paths.logs / "train0.log").write_bytes(raw)
    _, names, folder = build(paths, 9)
    log = (folder / "t1" / f"{names['train0']}.log").read_text()
    assert "torn half" in log
    assert len(log.splitlines()) <= raw.count(b"\n")
