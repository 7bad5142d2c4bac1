"""PID 1 of the virtual cluster: ``python -m injection.virtual.init SCRATCH WANTS`` inside fresh namespaces.

WANTS is JSON: ``addresses`` (host -> [own address, component address, ...]), ``names`` (whether there will be a name server),
``memory_disk`` ([path, MiB], where the job's disk cannot be a device). It mounts, builds the network, and then is the keeper.
When it ends, the kernel ends every process of its PID namespace, and with the last of them devices, rules and mounts are gone.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from injection.keeper import Keeper
from injection.virtual.addresses import host_namespaces
from injection.virtual.mounts import mount_files, mount_memory_disk


def build(addresses: dict[str, list[str]], *, names: bool, memory_disk: list[str] | None = None) -> None:
    """Make mounts and network in a child, so that PID 1 stays small and never loads a netlink library."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            from injection.virtual.network import build_network

            mount_files({host: own[0] for host, own in addresses.items()}, names=names)
            if memory_disk is not None:
                mount_memory_disk(Path(memory_disk[0]), int(memory_disk[1]))
            build_network(addresses)
            code = 0
        except BaseException as error:  # told in one line; the lab shows it
            sys.stderr.write(f"the virtual cluster's network could not be built: {error}\n")
            sys.stderr.flush()
        finally:
            os._exit(code)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0:
        raise SystemExit(1)


def end_everything() -> None:
    """Kill all but PID 1 itself and reap until nothing is left."""
    try:
        os.kill(-1, signal.SIGKILL)
        while True:
            os.waitpid(-1, 0)
    except (ProcessLookupError, ChildProcessError):
        return


def main() -> None:
    """See the module. Refuses to be anything but PID 1: elsewhere its mounts would be the machine's own."""
    if os.getpid() != 1:
        raise SystemExit("injection.virtual.init is the first process of a PID namespace or nothing")
    build(**json.loads(sys.argv[2]))
    Keeper(Path(sys.argv[1]), host_namespaces, end_everything).serve()


if __name__ == "__main__":
    main()
