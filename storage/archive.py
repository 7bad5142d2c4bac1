"""One run as one file, and back: a tar under zstd whose first member lists every other with size and SHA-256.

The list's own hash is the archive's fingerprint: who knows it from elsewhere can tell that nothing was changed, the list
included.
Reading trusts nothing: a member that is not listed, not plain, longer or other than listed, or whose path leaves the run, ends
the import, and the home is as it was.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import stat
import tarfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO, Any

from pyarrow import ArrowException, fs

from storage.canonical import canonical_bytes
from storage.layout import RunPaths, run_paths, runs_dir
from storage.manifest import ManifestError, RunState, load_manifest
from storage.schemas import VERSIONS
from storage.seal import sha256_file

FORMAT = 1
SUFFIX = ".faultline.tar.zst"
_LIST = "contents.json"
_MOST_LIST_BYTES = 64 << 20
_CHUNK = 1 << 20


class ArchiveError(ValueError):
    """A file that is no intact archive of a run; the text says why."""


def export_run(run_id: str, target: str) -> dict[str, Any]:
    """Write a run's archive to ``target``: a file, an existing folder, or a URI. A run under way is refused.

    Returns ``{"run_id", "archive", "fingerprint", "files", "bytes", "left_out"}``; sockets, pipes and links that lead out of
    the run are left out by name. Raises OSError where it cannot be written; nothing is left there then.
    """
    paths = run_paths(run_id)
    if not paths.root.is_dir():
        raise FileNotFoundError(f"no run {run_id!r} in {runs_dir()}")
    with suppress(ManifestError):
        if load_manifest(paths).state == RunState.RUNNING:
            raise ValueError(f"{run_id} is still running")
    contents, left_out = _contents(paths)
    where = target if "://" in target else str(Path(target) / f"{run_id}{SUFFIX}" if Path(target).is_dir() else Path(target))
    with _writing(where) as stream, tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        _add(archive, _LIST, canonical_bytes(contents))
        for name in contents["files"]:
            archive.add(paths.root / name, name, recursive=False, filter=_anonymous)
    sizes = [entry["bytes"] for entry in contents["files"].values()]
    facts = {"fingerprint": _fingerprint(contents), "files": len(sizes), "bytes": sum(sizes), "left_out": left_out}
    return {"run_id": run_id, "archive": where, **facts}


def import_run(source: str, fingerprint: str = "") -> dict[str, Any]:
    """Bring an archive's run into this home, whole or not at all. With ``fingerprint``, only an archive of this fingerprint.

    Returns ``{"run_id", "fingerprint", "files", "bytes"}``. Raises ArchiveError for what is no intact archive or is of a newer
    program, FileExistsError when the run is here already.
    """
    aside = runs_dir() / f".import-{uuid.uuid4().hex[:12]}"
    try:
        contents = _unpacked(source, aside, fingerprint)
        run_id = str(contents["run_id"])
        _refuse_newer(contents, RunPaths(aside / run_id))
        if run_paths(run_id).root.exists():
            raise FileExistsError(f"run {run_id} is here already")
        _restore_modes(aside / run_id, contents)
        (aside / run_id).rename(run_paths(run_id).root)
    finally:
        remove_tree(aside)
    sizes = [entry["bytes"] for entry in contents["files"].values()]
    return {"run_id": run_id, "fingerprint": _fingerprint(contents), "files": len(sizes), "bytes": sum(sizes)}


def remove_tree(folder: Path) -> None:
    """Remove a folder, read-only ones inside included; one that is not there is no error."""
    for path, _, _ in os.walk(folder):
        with suppress(OSError):
            os.chmod(path, 0o700)  # noqa: PTH101 - os.walk gives texts
    shutil.rmtree(folder, ignore_errors=True)


def _contents(paths: RunPaths) -> tuple[dict[str, Any], list[str]]:
    files: dict[str, dict[str, Any]] = {}
    folders: dict[str, int] = {}
    links: dict[str, str] = {}
    left_out: list[str] = []
    for path in sorted(paths.root.rglob("*")):
        name, mode = path.relative_to(paths.root).as_posix(), path.lstat().st_mode
        if stat.S_ISLNK(mode) and _stays_inside(name, str(path.readlink())):
            links[name] = str(path.readlink())
        elif stat.S_ISDIR(mode):
            folders[name] = stat.S_IMODE(mode) & 0o755
        elif stat.S_ISREG(mode):
            files[name] = {"sha256": sha256_file(path), "bytes": path.stat().st_size, "mode": stat.S_IMODE(mode) & 0o755}
        else:
            left_out.append(name)
    told = {"format": FORMAT, "run_id": paths.run_id, "tables": VERSIONS, "files": files, "folders": folders, "links": links}
    return told, left_out


def _fingerprint(contents: dict[str, Any]) -> str:
    return hashlib.sha256(canonical_bytes(contents)).hexdigest()


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    archive.addfile(entry, io.BytesIO(data))


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


@contextmanager
def _writing(where: str) -> Iterator[IO[bytes]]:
    """A compressing stream whose file is visible when all of it is written, and not before."""
    if "://" in where:
        store, path = fs.FileSystem.from_uri(where)
        hidden = path
    else:
        store, path = fs.LocalFileSystem(), str(Path(where).absolute())
        hidden = str(Path(path).with_name(f".{Path(path).name}.{os.getpid()}.tmp"))
    try:
        with store.open_output_stream(hidden, compression="zstd") as stream:
            yield stream
        if hidden != path:
            store.move(hidden, path)
    except BaseException:
        with suppress(OSError):
            store.delete_file(hidden)
        raise


def _unpacked(source: str, aside: Path, fingerprint: str) -> dict[str, Any]:
    """The listed contents, whose files lie below ``aside`` now. Raises ArchiveError, or OSError of a source or a disk."""
    try:
        return _unpack(source, aside, fingerprint)
    except ArchiveError:
        raise
    except (tarfile.TarError, ArrowException, EOFError, FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise ArchiveError(f"{source} is no intact archive: {error}") from error
    except OSError as error:
        if error.errno is None:  # of the decompressor, not of a disk
            raise ArchiveError(f"{source} is no intact archive: {error}") from error
        raise


def _unpack(source: str, aside: Path, fingerprint: str) -> dict[str, Any]:
    store, path = fs.FileSystem.from_uri(source) if "://" in source else (fs.LocalFileSystem(), str(Path(source).absolute()))
    with store.open_input_stream(path, compression="zstd") as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
        contents = _read_list(archive)
        if fingerprint and fingerprint != _fingerprint(contents):
            raise ArchiveError(f"the fingerprint is {_fingerprint(contents)}, not {fingerprint}")
        _refuse_flood(contents)
        root = aside / contents["run_id"]
        root.mkdir(parents=True)
        for name in contents["folders"]:
            (root / name).mkdir(parents=True, exist_ok=True)
        missing = dict(contents["files"])
        while entry := archive.next():
            listed = missing.pop(entry.name, None)
            if listed is None or not entry.isreg() or entry.size != listed["bytes"]:
                raise ArchiveError(f"{entry.name!r} is not as listed")
            _store(archive.extractfile(entry), root / entry.name, listed)
    if missing:
        raise ArchiveError(f"{len(missing)} listed files are missing, the first of them {sorted(missing)[0]!r}")
    for name, target in contents["links"].items():
        (root / name).symlink_to(target)
    return contents


def _read_list(archive: tarfile.TarFile) -> dict[str, Any]:
    entry = archive.next()
    if entry is None or entry.name != _LIST or not entry.isreg() or entry.size > _MOST_LIST_BYTES:
        raise ArchiveError(f"it does not begin with {_LIST}")
    stream = archive.extractfile(entry)
    try:
        contents = json.loads(stream.read() if stream else b"")
        _refuse_shape(contents)
    except ArchiveError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ArchiveError(f"{_LIST} is damaged: {type(error).__name__}: {error}") from error
    return dict(contents)


def _refuse_shape(contents: dict[str, Any]) -> None:
    if contents["format"] != FORMAT:
        raise ArchiveError(f"an archive of format {contents['format']!r}; this program knows {FORMAT}")
    run_paths(contents["run_id"])
    files, folders, links = contents["files"], contents["folders"], contents["links"]
    for name in (*files, *folders, *links):
        if not _stays_inside("", name):
            raise ArchiveError(f"a path that leaves the run: {name!r}")
    for name, entry in files.items():
        if not (isinstance(entry["bytes"], int) and entry["bytes"] >= 0 and isinstance(entry["sha256"], str)):
            raise ArchiveError(f"{name!r} has no size or no hash")
    if not all(isinstance(version, int) for version in contents["tables"].values()):
        raise ArchiveError("a table version that is no number")
    modes = [*folders.values(), *(entry["mode"] for entry in files.values())]
    if not all(isinstance(mode, int) and 0 <= mode <= 0o755 for mode in modes):
        raise ArchiveError("a mode that no file of a run has")
    for name, target in links.items():
        if not isinstance(target, str) or not _stays_inside(name, target):
            raise ArchiveError(f"a link that leaves the run: {name!r}")


def _refuse_flood(contents: dict[str, Any]) -> None:
    wanted = sum(entry["bytes"] for entry in contents["files"].values())
    free = shutil.disk_usage(runs_dir()).free
    if wanted > free:
        raise ArchiveError(f"it holds {wanted} bytes; there are {free} free")


def _stays_inside(link: str, target: str) -> bool:
    """Whether a relative path, or a link's target, names something below the run's folder, without a way back up."""
    parts = PurePosixPath(target).parts
    plain = bool(parts) and not target.startswith("/") and "\0" not in target and "\\" not in target
    return plain and ".." not in parts and (not link or len(parts) == 1)


def _store(stream: IO[bytes] | None, path: Path, listed: dict[str, Any]) -> None:
    """Exclusive creation: a name that stands in the way, by case or by link, is not written through."""
    path.parent.mkdir(parents=True, exist_ok=True)
    found = hashlib.sha256()
    with path.open("xb") as file:
        while stream and (chunk := stream.read(_CHUNK)):
            found.update(chunk)
            file.write(chunk)
    if found.hexdigest() != listed["sha256"]:
        raise ArchiveError(f"{path.name!r} is altered: its bytes do not have the listed hash")


def _refuse_newer(contents: dict[str, Any], paths: RunPaths) -> None:
    newer = {name: version for name, version in dict(contents["tables"]).items() if version > VERSIONS.get(name, 0)}
    if newer:
        told = ", ".join(f"{name} of version {version}" for name, version in sorted(newer.items()))
        raise ArchiveError(f"it is of a newer program: {told}")
    try:
        load_manifest(paths)
    except ManifestError as error:
        if "schema version" in str(error):
            raise ArchiveError(str(error)) from error


def _restore_modes(root: Path, contents: dict[str, Any]) -> None:
    for name, entry in contents["files"].items():
        (root / name).chmod(entry["mode"])
    for name, mode in contents["folders"].items():
        (root / name).chmod(mode | 0o500)
