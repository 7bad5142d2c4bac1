"""Control groups, version 1 or 2: where a process is, and a group of our own beside it. Plain files, no library in between."""

from __future__ import annotations

import errno
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

from injection import strays
from injection.fault import StuckError

ROOT = Path("/sys/fs/cgroup")
#: How long a group may take to be empty once its processes were moved away.
EMPTY_S = 2.0
POLL_S = 0.01


@dataclass(frozen=True)
class Group:
    """One group of one controller; `version` is 1 or 2."""

    path: Path
    version: int

    def write(self, file: str, value: object) -> None:
        """Raises OSError."""
        (self.path / file).write_text(str(value))

    def take(self, pid: int) -> None:
        """Move a whole process into this group. Raises OSError, ProcessLookupError where it is gone."""
        self.write("cgroup.procs", pid)

    def pids(self) -> list[int]:
        """The processes in it; none where it is gone."""
        try:
            return [int(pid) for pid in (self.path / "cgroup.procs").read_text().split()]
        except FileNotFoundError:
            return []

    def fresh(self) -> Group:
        """The name of a group that does not exist, where a process of this group may be put; it tells nothing.

        In version 2 a group with processes has no children but at the root, so it is a sibling.
        """
        beside = self.version == 2 and self.path != ROOT
        parent = self.path.parent if beside else self.path
        return Group(parent / f"{strays.PREFIX}{secrets.token_hex(4)}", self.version)

    @property
    def ours(self) -> bool:
        """Whether the hands made it."""
        return self.path.name.startswith(strays.PREFIX)


def group_of(pid: int | str, controller: str) -> Group | None:
    """The group of a process for `controller`; None where this machine has no such controller mounted at its usual place."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        if controller in names.split(","):
            mounts = [ROOT / controller, ROOT / names]
            found = [mount for mount in mounts if mount.is_dir()]
            return Group(Path(str(found[0]) + path.rstrip("/")), 1) if found else None
        group = Group(Path(str(ROOT) + path.rstrip("/")), 2)
        controllers = group.path / "cgroup.controllers"
        if not names and controllers.exists() and controller in controllers.read_text().split():
            return group
    return None


def dissolve(group: Group, refuge: Group) -> None:
    """Move whoever is left to `refuge` and remove the group; nothing to do where it is gone. Raises StuckError."""
    deadline = time.monotonic() + EMPTY_S
    while group.path.exists():
        for pid in group.pids():
            try:
                refuge.take(pid)
            except ProcessLookupError:
                continue
        try:
            group.path.rmdir()
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise StuckError(f"the control group {group.path} could not be removed: {error.strerror}") from error
            time.sleep(POLL_S)
