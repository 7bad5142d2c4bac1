"""Fixtures of every room: short scratch folders, an ordinary user, and an honest count of what was left out."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

REPOSITORY = Path(__file__).resolve().parent.parent
#: An unprivileged uid that needs no entry in the user database.
ORDINARY_UID = 60444

# Laws are about values; a busy machine's speed breaks none of them.
settings.register_profile("laws", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("laws")

RunAs = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder with a path short enough for unix sockets."""
    folder = Path(tempfile.mkdtemp(prefix="t-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, onerror=_open_and_retry)


def _open_and_retry(act: Callable[[str], object], path: str, _: object) -> None:
    """Sealed folders are read-only; what lies in them goes once they are not."""
    with suppress(OSError):
        Path(path).parent.chmod(0o700)
        act(path)


@pytest.fixture
def ordinary_user(scratch: Path) -> RunAs:
    """Start ``argv`` as an unprivileged uid (as oneself when not root), text pipes on all three streams.

    Its home, FAULTLINE_HOME and working folder are ``scratch/home``, its own.
    """
    home, aside = scratch / "home", scratch / "aside"
    home.mkdir()
    aside.mkdir()
    scratch.chmod(0o755)

    def start(argv: list[str], **env: str) -> subprocess.Popen[str]:
        drop: list[str] = []
        if os.geteuid() == 0:
            os.chown(home, ORDINARY_UID, ORDINARY_UID)
            drop = [*_way_in(aside), "setpriv", f"--reuid={ORDINARY_UID}", f"--regid={ORDINARY_UID}", "--clear-groups"]
        path = f"{Path(sys.prefix) / 'bin'}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        base = {
            "PATH": path,
            "HOME": str(home),
            "FAULTLINE_HOME": str(home / "lab"),
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(REPOSITORY),
        }
        pipe = subprocess.PIPE
        return subprocess.Popen([*drop, *argv], cwd=home, env=base | env, stdin=pipe, stdout=pipe, stderr=pipe, text=True)

    return start


def _way_in(aside: Path) -> list[str]:
    """What makes code and interpreter reachable when they lie in a closed folder, such as root's home; [] if they do not.

    In a mount namespace of the command's own, each closed folder is covered, and what is needed shows at its old place.
    """
    needed = {REPOSITORY, Path(sys.prefix), Path(sys.base_prefix), Path(sys.executable).resolve().parent}
    script, covered = [], {}
    for path in sorted(needed):
        closed = next((folder for folder in reversed(path.parents) if not folder.stat().st_mode & 0o001), None)
        if closed is None:
            continue
        if closed not in covered:
            covered[closed] = hold = aside / str(len(covered))
            script += [f"mkdir -p {hold}", f"mount --rbind '{closed}' {hold}", f"mount -t tmpfs -o mode=755 tmpfs '{closed}'"]
        script += [f"mkdir -p '{path}'", f"mount --rbind '{covered[closed] / path.relative_to(closed)}' '{path}'"]
    return ["unshare", "--mount", "sh", "-ec", "; ".join([*script, 'exec "$@"']), "sh"] if script else []


_left_out: list[str] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out tests marked ``root`` when not root, and remember which."""
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root"))
            _left_out.append(item.nodeid)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many were left out, always."""
    terminalreporter.write_line(f"left out for want of root: {len(_left_out)}")
    for name in _left_out:
        terminalreporter.write_line(f"  {name}")
