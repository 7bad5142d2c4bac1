"""A limit on what a process's control group may write to one device a second: version 1 `blkio`, version 2 `io`."""

from __future__ import annotations

from pathlib import Path

from injection.cgroup import Group, group_of
from injection.fault import RefusedError

FILE_V1 = "blkio.throttle.write_bps_device"
FILE_V2 = "io.max"


def throttled_group(pid: int) -> Group:
    """The group whose limits hold for a process. Raises RefusedError where there is none that can be written."""
    found = group_of(pid, "blkio") or group_of(pid, "io")
    if found is None or not (found.path / _file(found.version)).exists():
        raise RefusedError("this machine has no control group that could limit what a process writes (how: throttle)")
    file = found.path / _file(found.version)
    try:
        file.open("a").close()
    except OSError as error:
        raise RefusedError(f"not permitted to limit what a process writes: {file}: {error.strerror}") from error
    return found


def limit(group: Group, device: str, bytes_per_s: int) -> None:
    """Set the limit on a device (major:minor); 0 = none. Raises OSError."""
    group.write(
        _file(group.version), f"{device} {bytes_per_s}" if group.version == 1 else f"{device} wbps={bytes_per_s or 'max'}"
    )


def limit_of(group: str, version: int, device: str) -> int:
    """The limit as the kernel tells it, bytes a second; 0 = none."""
    path = Path(group) / _file(version)
    if not path.exists():
        return 0
    for line in path.read_text().splitlines():
        words = line.replace("=", " ").split()
        if words[0] == device:
            value = words[1] if version == 1 else dict(zip(words[1::2], words[2::2], strict=True)).get("wbps", "max")
            return 0 if value == "max" else int(value)
    return 0


def _file(version: int) -> str:
    return FILE_V1 if version == 1 else FILE_V2
