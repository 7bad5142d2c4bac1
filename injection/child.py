"""A process of the hands: started ahead, told by a line what to do, gone with the thread that started it.

Its programs are the files of `injection/children/`, which need nothing but Python itself. What others see of one is
`/where/python/lies/python3 -S -E /proc/self/fd/N PID ...`: neither name, arguments nor environment tell what it is for.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from injection import procfs, strays
from injection.fault import RefusedError, StuckError
from injection.procfs import Identity

PROGRAMS = Path(__file__).parent / "children"
#: How long a child may take to come up or to answer, and to be gone after SIGKILL (it frees its memory first).
ANSWER_S = 10.0
END_S = 5.0
#: How long it may take to come up when it imports what is installed.
IMPORT_S = 120.0
#: The kernel ends a child with the thread that started it. A session of its own, because autogroups share a core among
#: sessions: five busy processes of one session would weigh as one.
PRELUDE = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
if os.getppid() != int(sys.argv.pop(1)):
    sys.exit(1)
os.setsid()
os.close(int(sys.argv[0].rsplit("/", 1)[1]))
"""


#: Under these names an undo record holds whoever keeps its fault in force. The `ballast` of a memory group is not among
#: them: the kernel may take it with the target, so whether that lives must be asked as well (`OwnGroup.lost`).
HOLDING = ("process", "holder", "writer")


class Child:
    """A running program; `arguments` are its command line. Raises RefusedError, with its last words, if it does not come up.

    `packages`: it may import what is installed.
    """

    def __init__(self, program: str, *arguments: object, packages: bool = False) -> None:
        text = os.memfd_create("", 0)
        os.write(text, (PRELUDE + (PROGRAMS / f"{program}.py").read_text()).encode())
        # By its whole path, for that is how an interpreter finds its library: by its name alone it may find another one's.
        # Packages are found by the virtual environment's own path, which may name the lab; nobody else need show it.
        start = [sys.executable] if packages else [str(Path(sys.executable).resolve()), "-S"]
        argv = [*start, "-E", f"/proc/self/fd/{text}", str(os.getpid()), *map(str, arguments)]
        mark = {strays.MARK: os.environ[strays.MARK]} if strays.MARK in os.environ else {}
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            argv, executable=sys.executable, stdin=pipe, stdout=pipe, stderr=pipe, cwd="/", env=mark, pass_fds=[text]
        )
        os.close(text)
        self.who = procfs.identity(self._process.pid)
        self._answer(IMPORT_S if packages else ANSWER_S)

    @property
    def key(self) -> list[int]:
        """Pid and start ticks, as an undo record holds them."""
        return [self.who.pid, self.who.start_ticks]

    def tell(self, *words: object) -> str:
        """Say a line and wait for the line that answers. Raises RefusedError."""
        self.go(*words)
        return self._answer()

    def go(self, *words: object) -> None:
        """Say a line and wait for nothing."""
        assert self._process.stdin is not None
        try:
            os.write(self._process.stdin.fileno(), (" ".join(map(str, words)) + "\n").encode())
        except BrokenPipeError as error:
            raise RefusedError(f"a helper process has ended: {self._last_words()}") from error

    def _answer(self, patience_s: float = ANSWER_S) -> str:
        stdout = self._process.stdout
        assert stdout is not None
        if not select.select([stdout], [], [], patience_s)[0]:
            raise RefusedError(f"a helper process said nothing for {patience_s:.0f} s")
        line = stdout.readline().decode().strip()
        if not line:
            raise RefusedError(f"a helper process has ended: {self._last_words()}")
        return line

    def _last_words(self) -> str:
        _, errors = self._process.communicate()
        return (errors.decode().strip().splitlines() or ["it said nothing"])[-1]


def holding(undo: dict[str, Any]) -> list[Identity]:
    """The helpers with whose end the fault of an undo record would be over."""
    keys = [undo[name] for name in HOLDING if name in undo] + undo.get("processes", [])
    return [Identity(*key) for key in keys]


def end(key: Any) -> None:
    """End the process of an undo record, if it still is that one. Raises StuckError when it does not go."""
    who = Identity(*key)
    try:
        pidfd = procfs.open_pidfd(who)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        if not select.select([pidfd], [], [], END_S)[0]:
            raise StuckError(f"process {who.pid} is still alive {END_S:.0f} s after SIGKILL")
    except ProcessLookupError:
        return
    finally:
        os.close(pidfd)
