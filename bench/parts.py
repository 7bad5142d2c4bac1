"""Which of the lab's processes is which: where a job could see them, their command lines do not tell."""

from __future__ import annotations

from pathlib import Path

import psutil

#: The log into which a part writes -> what the part is called here.
LOGS = {
    "injector": "injector",
    "watchdog": "watchdog",
    "guard": "watchdog",
    "sampler": "sampler",
    "names": "name server",
    "proxy": "proxy",
}
#: Those outside of what a job can see bear their names.
MODULES = {"injection.keeper": "keeper", "injection.virtual.loop": "disk keeper"}


def part(process: psutil.Process) -> str:
    """What a process of a run is; "" where it is none of the lab's. A helper or a probe is a child of the injector."""
    try:
        words, log = process.cmdline(), Path(f"/proc/{process.pid}/fd/1").readlink()
        if words[:1] == ["unshare"]:
            return "keeper"
        if words[1:3] and words[1] == "-m" and words[2] in MODULES:
            return MODULES[words[2]]
        if log.suffix == ".log" and log.stem in LOGS:
            return LOGS[log.stem]
        if _is_first(process.pid):
            return "init"
        parent = process.parent()
    except (psutil.Error, OSError):
        return ""
    if parent is None or part(parent) != "injector":
        return ""
    return "helper" if any(word.startswith("/proc/self/fd/") for word in words[1:4]) else "probe"


def _is_first(pid: int) -> bool:
    """Whether it is PID 1 of a namespace of its own."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    inside = next(line.split()[1:] for line in lines if line.startswith("NSpid:"))
    return len(inside) > 1 and inside[-1] == "1"
