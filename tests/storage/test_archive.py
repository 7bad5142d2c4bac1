"""A run as one file: what goes in comes out, and what was touched does not come in."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.archive import ArchiveError, export_run, import_run
from storage.catalogue import open_run, query
from storage.layout import RunPaths, run_paths, runs_dir
from storage.manifest import RunState, end_manifest, start_manifest
from storage.schemas import METRICS
from storage.truth import save_plan
from storage.writer import TableWriter


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("FAULTLINE_HOME", str(tmp_path / "home"))
    return tmp_path


def make_run(run_id: str = "r1", *, ended: bool = True) -> RunPaths:
    paths = run_paths(run_id).create()
    start_manifest(paths, profile="smoke", workload="grpo", posture="legacy", place="plain-host")
    save_plan(paths, {"scenario": "plain", "arm": "legacy", "seed": 7, "faults": []})
    (paths.logs / "train0.log").write_bytes(b"\xff bytes\n")
    (paths.job / "latest").symlink_to("logs")
    (paths.job / "outside").symlink_to("/etc/passwd")
    os.mkfifo(paths.job / "pipe")
    with TableWriter(paths.table("metrics"), METRICS) as writer:
        writer.append({"metric": ["loss"], "value": [0.5]})
    paths.evidence.mkdir()
    (paths.evidence / "manifest.json").write_text("{}")
    (paths.evidence / "manifest.json").chmod(0o444)
    paths.evidence.chmod(0o555)
    if ended:
        end_manifest(paths, RunState.COMPLETED)
    return paths


def exported(tmp_path: Path) -> tuple[str, dict]:
    make_run()
    facts = export_run("r1", str(tmp_path))
    return facts["archive"], facts


def state_of(root: Path) -> dict[str, object]:
    """Everything below a folder: kinds, modes, bytes and links."""
    found: dict[str, object] = {}
    for path in root.rglob("*"):
        mode = path.lstat().st_mode & 0o777
        if path.is_symlink():
            found[path.relative_to(root).as_posix()] = str(path.readlink())
        else:
            found[path.relative_to(root).as_posix()] = (mode, path.read_bytes() if path.is_file() else None)
    return found


def test_a_run_goes_out_and_comes_back(home, monkeypatch):
    """In another home the run is there with every byte, mode and link of its own; what is no plain file was named."""
    archive, facts = exported(home)
    assert sorted(facts["left_out"]) == ["job/outside", "job/pipe"]
    before = state_of(run_paths("r1").root)
    monkeypatch.setenv("FAULTLINE_HOME", str(home / "other"))
    told = import_run(archive, facts["fingerprint"])
    assert told["run_id"] == "r1" and told["fingerprint"] == facts["fingerprint"]
    after = state_of(run_paths("r1").root)
    assert after == {name: state for name, state in before.items() if name not in ("job/outside", "job/pipe")}
    assert open_run("r1").scenario == "plain" and query("SELECT run_id, value FROM metrics").rows == [("r1", 0.5)]
    with pytest.raises(FileExistsError, match="run r1 is here already"):
        import_run(archive)
    assert [path.name for path in runs_dir().iterdir()] == ["r1"]


def test_a_run_under_way_is_not_exported(home):
    """Its files change: refused; and so is a run that is not there."""
    make_run(ended=False)
    with pytest.raises(ValueError, match="r1 is still running"):
        export_run("r1", str(home))
    with pytest.raises(FileNotFoundError, match="no run 'r2'"):
        export_run("r2", str(home))
    assert not list(home.glob("*.zst")) and not list(home.glob(".*"))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255), cut=st.booleans())
def test_touched_bytes_do_not_come_in(tmp_path_factory, place, flip, cut):
    """An archive with one byte changed, or cut short anywhere, is refused in one sentence, and nothing of it is left."""
    tmp_path = tmp_path_factory.mktemp("x")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAULTLINE_HOME", str(tmp_path / "home"))
        archive, facts = exported(tmp_path)
        data = bytearray(Path(archive).read_bytes())
        at = int(place * len(data))
        if cut:
            del data[at:]
        else:
            data[at] ^= flip
        Path(archive).write_bytes(data)
        patch.setenv("FAULTLINE_HOME", str(tmp_path / "other"))
        try:
            told = import_run(archive, facts["fingerprint"])
        except ArchiveError:
            assert list(runs_dir().iterdir()) == []
        else:
            # A bit of the framing that carries no content: what came in is what went out.
            assert told["fingerprint"] == facts["fingerprint"]


def forged(tmp_path: Path, change, members=None) -> str:
    """The archive with its list changed by ``change``, and the members replaced."""
    archive, _ = exported(tmp_path)
    raw = pa.input_stream(archive, compression="zstd").read()
    with tarfile.open(fileobj=io.BytesIO(raw)) as old:
        contents = json.loads(old.extractfile("contents.json").read())
        files = [(entry.name, old.extractfile(entry).read()) for entry in old if entry.name != "contents.json"]
    change(contents)
    out = tmp_path / "forged.tar.zst"
    with pa.output_stream(str(out), compression="zstd") as sink, tarfile.open(fileobj=sink, mode="w|") as new:
        for name, data in [("contents.json", json.dumps(contents).encode()), *(members(files) if members else files)]:
            entry = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            entry.size = len(data)
            new.addfile(entry, io.BytesIO(data))
    os.environ["FAULTLINE_HOME"] = str(tmp_path / "other")
    return str(out)


def link(name: str, target: str) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = tarfile.SYMTYPE, target
    return entry


EVIL = {"sha256": "0" * 64, "bytes": 0, "mode": 0o644}
HOSTILE = {
    "path up": (lambda c: c["files"].update({"../../evil": EVIL}), None, "a path that leaves the run: '../../evil'"),
    "absolute path": (lambda c: c["files"].update({"/tmp/evil": EVIL}), None, "a path that leaves the run"),
    "folder up": (lambda c: c["folders"].update({"..": 0o755}), None, "a path that leaves the run"),
    "run id up": (lambda c: c.update(run_id="../evil"), None, "not a run id"),
    "link out": (lambda c: c["links"].update({"job/l": "../../../x"}), None, "a link that leaves the run"),
    "link to root": (lambda c: c["links"].update({"job/l": "/etc"}), None, "a link that leaves the run"),
    "setuid": (lambda c: c["files"]["manifest.json"].update(mode=0o4755), None, "a mode that no file of a run has"),
    "newer archive": (lambda c: c.update(format=2), None, "an archive of format 2; this program knows 1"),
    "newer table": (lambda c: c["tables"].update(metrics=99), None, "of a newer program: metrics of version 99"),
    "unknown table": (lambda c: c["tables"].update(dreams=1), None, "of a newer program: dreams of version 1"),
    "list is no object": (lambda c: c.clear(), None, "contents.json is damaged"),
    "flood": (lambda c: c["files"]["manifest.json"].update(bytes=1 << 60), None, "bytes; there are"),
    "member not listed": (lambda c: None, lambda files: [*files, ("truth/more", b"x")], "'truth/more' is not as listed"),
    "member twice": (lambda c: None, lambda files: [*files, files[0]], "is not as listed"),
    "member missing": (lambda c: None, lambda files: files[1:], "1 listed files are missing"),
    "member altered": (lambda c: None, lambda files: [(files[0][0], b"x" * len(files[0][1])), *files[1:]], "is altered"),
    "member is a link": (
        lambda c: None,
        lambda files: [(link(files[0][0], "/etc/passwd"), b""), *files[1:]],
        "is not as listed",
    ),
    "file below a file": (
        lambda c: c["files"].update({"manifest.json/x": {**EVIL, "sha256": "e3b0c442"}}),
        lambda files: [*files, ("manifest.json/x", b"")],
        "is no intact archive",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_archives_are_refused(case, home, monkeypatch):
    """Paths and links that leave the run, strange modes, newer versions, more or fewer files than listed: refused by name."""
    monkeypatch.setenv("FAULTLINE_HOME", str(home / "home"))
    change, members, sentence = HOSTILE[case]
    archive = forged(home, change, members)
    with pytest.raises(ValueError, match=sentence.replace("(", r"\(")):
        import_run(archive)
    assert list(runs_dir().iterdir()) == []
    assert not (home / "evil").exists() and not (home / "other" / "evil").exists()


def test_a_changed_list_has_another_fingerprint(home, monkeypatch):
    """Who rewrites content and list alike is told by the fingerprint that the exporter told."""
    archive, facts = exported(home)
    monkeypatch.setenv("FAULTLINE_HOME", str(home / "other"))
    with pytest.raises(ArchiveError, match=f"the fingerprint is {facts['fingerprint']}, not 1234"):
        import_run(archive, "1234")
