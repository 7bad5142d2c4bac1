"""The few system calls that Python 3.11 does not offer: namespaces, mounts, host name and the ends of parent and child."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import struct

CLONE_NEWUTS = 0x04000000
CLONE_NEWNET = 0x40000000
MS_BIND = 0x1000
PR_SET_PDEATHSIG = 1
PR_SET_TIMERSLACK = 29
PR_SET_CHILD_SUBREAPER = 36
#: `sched_setattr`, for which the C library has no function: its number by machine, and its argument.
SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}
SCHED_ATTRIBUTES = struct.Struct("=IIQiIQQQII")
#: The shortest slice that the scheduler grants; whoever asks for little gets it soon.
SLICE_NS = 100_000

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, call: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    """Put this process into new namespaces of the given kinds. Raises OSError."""
    _checked(_libc.unshare(flags), "unshare")


def setns(descriptor: int) -> None:
    """Enter the namespace behind an open ``/proc/<pid>/ns/*`` file. Raises OSError."""
    _checked(_libc.setns(descriptor, 0), "setns")


def mount(source: str, target: str, kind: str, flags: int = 0, options: str = "") -> None:
    """Mount ``source`` (a file system of type ``kind``, or with MS_BIND a path) on ``target``. Raises OSError."""
    arguments = (source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode())
    _checked(_libc.mount(*arguments), f"mount {target}")


def set_host_name(name: str) -> None:
    """Name the machine, in this process's UTS namespace only. Raises OSError."""
    _checked(_libc.sethostname(name.encode(), len(name.encode())), "sethostname")


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that forked it ends; an exec keeps the setting."""
    _checked(_libc.prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0), "prctl PDEATHSIG")


def come_first() -> None:
    """Have this thread run as soon as there is something to do for it: its sleeps end when they should, and others yield.

    At once with the right to real-time priority; without, by asking for short slices (Linux 6.12; older ones pass over it).
    Its children are as others. All of it is a wish: what is refused is gone without.
    """
    _libc.prctl(PR_SET_TIMERSLACK, ctypes.c_ulong(1), 0, 0, 0)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    except OSError:
        number = SCHED_SETATTR.get(platform.machine())
        size, policy, flags, nice, priority = SCHED_ATTRIBUTES.size, os.SCHED_OTHER, 0, 0, 0
        wanted = SCHED_ATTRIBUTES.pack(size, policy, flags, nice, priority, SLICE_NS, 0, 0, 0, 0)
        if number is not None:
            _libc.syscall(number, 0, wanted, 0)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends, as PID 1 is."""
    _checked(_libc.prctl(PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1), 0, 0, 0), "prctl SUBREAPER")
