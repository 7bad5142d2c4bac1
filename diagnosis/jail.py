"""Second stage of the sandbox, run inside fresh namespaces: build a root that holds the evidence alone, drop rights, exec.

``python jail.py SPEC.json``. The new root is a tmpfs that holds, all read-only: the interpreter's folders and the diagnoser's
code (`CODE`); writable: `WORK`. Nothing else of the file system exists there, not even ``/proc``. Their names are hidden ones
since an interpreter may lie anywhere, in a folder of any common name. Without namespaces (``"root": ""``) only the resource
limits are set. Standard library only; it uses the system calls directly because mount(8)
cannot make a bind read-only in one step without losing flags that an ordinary user may not clear.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

MS_REC_PRIVATE = 0x4000 | 0x40000
MS_BIND_REC = 0x1000 | 0x4000
MS_NOSUID_NODEV = 0x2 | 0x4
MNT_DETACH = 2
PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 24, 38
SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
SYS_MOUNT_SETATTR = 442
AT_FDCWD, AT_RECURSIVE, MOUNT_ATTR_RDONLY = -100, 0x8000, 0x1
NOBODY = 65534
CODE, WORK = "/.code", "/.work"

_libc = ctypes.CDLL(None, use_errno=True)


def main(spec: dict[str, Any]) -> None:
    """Never returns: becomes the diagnoser, or ends with exit code 125 and one sentence.

    Where the sandbox cannot be built it is in the file ``unbuilt``, which is open until the diagnoser is started and no
    longer, so that no diagnoser says so in our stead; where the diagnoser cannot be started, on standard error.
    """
    unbuilt = os.open(spec["unbuilt"], os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if spec["root"]:
            enter_root(Path(spec["root"]), spec["binds"])
            drop_rights()
        os.chdir(spec["cwd"])
        limit(spec["limits"])
    except OSError as error:
        os.write(unbuilt, f"the sandbox cannot be built: {error}".encode())
        sys.exit(125)
    try:
        os.execve(spec["argv"][0], spec["argv"], spec["env"])  # noqa: S606 - the very point of this program
    except OSError as error:
        sys.stderr.write(f"the diagnoser cannot be started: {error}\n")
        sys.exit(125)


def enter_root(root: Path, binds: dict[str, str]) -> None:
    """Make ``root`` the root: a tmpfs with ``binds`` (path outside -> path inside) read-only and an empty `WORK`."""
    _mount("none", "/", "", MS_REC_PRIVATE, "")
    _mount("tmpfs", str(root), "tmpfs", MS_NOSUID_NODEV, "size=1m,mode=0755")
    for outside, inside in binds.items():
        target = root / inside.lstrip("/")
        if Path(outside).is_symlink():
            target.symlink_to(Path(outside).readlink())
            continue
        target.mkdir(parents=True, exist_ok=True)
        _mount(outside, str(target), "", MS_BIND_REC, "")
    work = root / WORK.lstrip("/")
    work.mkdir()
    _read_only(root)
    _mount("tmpfs", str(work), "tmpfs", MS_NOSUID_NODEV, "size=16m,mode=0777")
    os.chdir(root)
    _check(_libc.syscall(SYS_PIVOT_ROOT[os.uname().machine], b".", b"."), "pivot_root")
    _check(_libc.umount2(b".", MNT_DETACH), "umount")
    os.chdir("/")


def drop_rights() -> None:
    """No capability survives the exec, and real root becomes nobody: else it owned every file it can see."""
    number = 0
    while _libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0) == 0:
        number += 1
    if _is_real_root():
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    _check(_libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")


def limit(limits: dict[str, int]) -> None:
    """Set each named resource limit (``CPU`` seconds, ``AS`` and ``FSIZE`` bytes, ``NOFILE``, ``NPROC``), hard and soft."""
    for name, value in {**limits, "CORE": 0}.items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))


def _is_real_root() -> bool:
    """Root without a user namespace of its own; inside one, root is only the caller under another number."""
    return os.getuid() == 0 and _maps_everybody


def _read_only(path: Path) -> None:
    attributes = (ctypes.c_uint64 * 4)(MOUNT_ATTR_RDONLY, 0, 0, 0)
    size = ctypes.sizeof(attributes)
    _check(_libc.syscall(SYS_MOUNT_SETATTR, AT_FDCWD, bytes(path), AT_RECURSIVE, attributes, size), f"read-only {path}")


def _mount(source: str, target: str, kind: str, flags: int, data: str) -> None:
    _check(_libc.mount(source.encode(), target.encode(), kind.encode(), flags, data.encode()), f"mount {target}")


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _map_length() -> int:
    """How many user ids this user namespace maps."""
    return sum(int(line.split()[2]) for line in Path("/proc/self/uid_map").read_text().splitlines())


#: Read before the new root hides /proc.
_maps_everybody = _map_length() > NOBODY

if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
