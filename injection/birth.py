"""How a process of a place is born: fork, enter the virtual host, exec; what fails before exec is told to the parent."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from injection import kernel


@dataclass(frozen=True)
class Birth:
    """Everything a new process needs. ``namespaces`` are paths of namespaces to enter, in order."""

    argv: list[str]
    log: str
    env: dict[str, str]
    cwd: str
    namespaces: Sequence[str] = field(default=())


def bear(birth: Birth) -> int:
    """Start the process in a session of its own, its output appended to ``log``, and return its pid.

    It dies with the caller. Raises OSError with the step that failed (no such program, no such folder, no such namespace).
    The caller must be single-threaded: the child of the fork runs Python until it execs.
    """
    told, tell = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        os.close(told)
        _become(birth, tell)
    os.close(tell)
    with os.fdopen(told, "rb") as pipe:
        trouble = pipe.read()
    if trouble:
        os.waitpid(pid, 0)
        number, _, text = trouble.decode().partition(" ")
        raise OSError(int(number), text)
    return pid


def _become(birth: Birth, tell: int) -> NoReturn:
    """In the child: never returns; on failure the parent reads errno and sentence from ``tell``."""
    try:
        _prepare(birth)
        os.execvpe(birth.argv[0], birth.argv, birth.env)  # noqa: S606 - an argument list, no shell
    except OSError as error:
        os.write(tell, f"{error.errno or 0} cannot start {birth.argv[0]!r}: {error}".encode())
    except BaseException as error:  # whatever it is, the child must end here and not run on as a second parent
        os.write(tell, f"0 cannot start {birth.argv[0]!r}: {error!r}".encode())
    finally:
        os._exit(127)


def _prepare(birth: Birth) -> None:
    os.setsid()
    kernel.die_with_parent()
    for path in birth.namespaces:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        kernel.setns(descriptor)
        os.close(descriptor)
    os.chdir(birth.cwd)
    nothing = os.open(os.devnull, os.O_RDONLY)
    output = os.open(birth.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(nothing, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
