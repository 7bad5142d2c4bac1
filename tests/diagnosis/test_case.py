import hashlib
import json
import random
import re
import stat
from pathlib import Path

import pytest

from diagnosis.case import CaseSource, build_case, neutral_names
from diagnosis.sanitise import FORBIDDEN
from diagnosis.topology import read_topology
from storage.layout import RunPaths
from tests.synthetic_job import CANARY, ROLES, make_run


def build(paths: RunPaths, seed: int, name: str = "evidence") -> tuple[dict[str, object], dict[str, str], Path]:
    """A case of the run with draws from ``seed``: (manifest, component -> neutral name, folder)."""
    topology, draw = read_topology(paths.registry, paths.addresses), random.Random(seed)
    names, hosts = neutral_names(topology, draw)
    source = CaseSource(paths.job, paths.logs, topology, strange=(paths.run_id,))
    folder = paths.root / name
    return build_case(source, names, hosts, folder, lambda _: "0" * 64, draw), names, folder


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
    plain = [{own: _restored((folder / _log(own, names)).read_text(), names) for own in names} for _, names, folder in cases]
    assert plain[0] == plain[1]
    assert set(cases[0][1].values()) != set(cases[1][1].values())


def _log(component: str, names: dict[str, str]) -> str:
    return f"{'t0' if component == 'controller' else 't1'}/{names[component]}.log"


def _restored(text: str, names: dict[str, str]) -> str:
    for own, neutral in names.items():
        text = text.replace(neutral, own)
    return re.sub(r"^\S+ \d\d:\d\d:\d\d", "", text, flags=re.MULTILINE)


def test_every_component_has_one_file_even_if_it_never_spoke(tmp_path: Path) -> None:
    """A component without a log has an empty one: a missing file would be a hint."""
    paths = make_run(tmp_path)
    (paths.logs / "train1.log").unlink()
    manifest, names, folder = build(paths, 5)
    assert len(manifest["files"]) == len(ROLES)  # type: ignore[arg-type]
    assert (folder / "t1" / f"{names['train1']}.log").read_bytes() == b""


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
    names, hosts = neutral_names(topology, draw)
    build_case(CaseSource(paths.job, paths.logs, topology), names, hosts, paths.root / "evidence", lambda _: "", draw)
    log = (paths.root / "evidence" / "t1" / f"{names['train0']}.log").read_text()
    assert log.splitlines()[-1].endswith(f"[pair.cc:5] Connection closed by peer {hosts['trainers']}:other")


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
