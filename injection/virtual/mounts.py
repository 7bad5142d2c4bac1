"""What a virtual host sees of some files: /run and /dev/shm empty, hosts and resolv.conf of the cluster's own."""

from __future__ import annotations

import os
from pathlib import Path

from injection import kernel
from injection.virtual.addresses import BRIDGE_ADDRESS

#: Ours; mounted over the machine's files, inside the cluster alone.
PRIVATE = Path("/run/site")
#: A cluster has its own, so that what processes leave there ends with it.
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - the place has no other name

#: A second and one more try: a resolver's own five seconds do not scale with the job's time-outs.
RESOLVER = f"nameserver {BRIDGE_ADDRESS}\noptions timeout:1 attempts:2\n"


def mount_files(addresses: dict[str, str], *, names: bool = False) -> None:
    """Mount them; ``addresses`` is host name -> address, ``names`` whether there will be a name server on the bridge.

    The namespaces' mount table must be our own. Raises OSError.
    """
    kernel.mount("tmpfs", "/run", "tmpfs", options="mode=755,size=16m")
    if SHARED_MEMORY.is_dir():
        kernel.mount("tmpfs", str(SHARED_MEMORY), "tmpfs", options="mode=1777")
    PRIVATE.mkdir()
    lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in addresses.items())]
    _cover(Path("/etc/hosts"), "\n".join(lines) + "\n")
    _cover(Path("/etc/resolv.conf"), RESOLVER if names else "# no name server: the cluster reaches nothing outside\n")


def mount_memory_disk(path: Path, mib: int) -> None:
    """Mount a file system of that size. Raises OSError."""
    kernel.mount("tmpfs", str(path), "tmpfs", options=f"mode=700,size={mib}m")


def _cover(path: Path, text: str) -> None:
    """Show ``text`` where ``path`` is. A link into /run (now empty) is served by a file at its end."""
    target = Path(os.path.realpath(path))
    if target.is_relative_to("/run"):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    elif target.exists():
        own = PRIVATE / path.name
        own.write_text(text)
        kernel.mount(str(own), str(target), "none", kernel.MS_BIND)
