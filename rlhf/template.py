"""A process that has imported what engines need and forks one on request: 20 ms instead of 3 s, and the memory is shared.

It is asked over its standard input and answers on its standard output, one JSON object a line:
``{"start": component}`` -> ``{"component", "pid"}`` and, when the engine has ended, ``{"component", "exit_code"}``
(negative = signal); ``{"stop": component, "signal": n}``. End of input ends it, and the kernel then kills its engines.
No CUDA and no thread of ours may exist here before a fork.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import selectors
import signal
import sys
import traceback
from pathlib import Path

PR_SET_PDEATHSIG = 1
#: What to import before the first fork. The first optimizer step imports torch._dynamo, a second of a core in every process.
PRELOADS = {
    "train": ("torch._dynamo", "rlhf.dispatch", "rlhf.serve_engine"),
    "torch": ("rlhf.dispatch", "rlhf.serve_engine"),
    "none": ("rlhf.metaserver", "rlhf.reward", "rlhf.serve_engine"),
}


class Template:
    """Forks, reaps, reports."""

    def __init__(self, job_dir: Path):
        self._job_dir = job_dir
        self._engines: dict[str, int] = {}
        self._wake, wake_end = os.pipe()
        for end in (self._wake, wake_end):
            os.set_blocking(end, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake_end)

    def run(self) -> None:
        """Serve requests until end of input."""
        self._tell({"ready": os.getpid()})
        with selectors.DefaultSelector() as selector:
            selector.register(0, selectors.EVENT_READ)
            selector.register(self._wake, selectors.EVENT_READ)
            rest = b""
            while True:
                ready = {key.fd for key, _ in selector.select()}
                if self._wake in ready:
                    os.read(self._wake, 4096)
                    self._reap()
                if 0 in ready:
                    part = os.read(0, 65536)
                    if not part:
                        return
                    *lines, rest = (rest + part).split(b"\n")
                    for line in lines:
                        self._obey(json.loads(line))

    def _obey(self, request: dict[str, str]) -> None:
        if "start" in request:
            self._start(request["start"])
        elif request["stop"] in self._engines:
            os.kill(self._engines[request["stop"]], int(request["signal"]))

    def _start(self, component: str) -> None:
        parent, pid = os.getpid(), os.fork()
        if pid == 0:
            self._become(component, parent)
        self._engines[component] = pid
        self._tell({"component": component, "pid": pid})

    def _become(self, component: str, parent: int) -> None:
        """In the child: shed what is the template's, then be the engine. Never returns."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:  # it died before the line above
                os._exit(1)
            null = os.open(os.devnull, os.O_RDWR)
            for standard in (0, 1):
                os.dup2(null, standard)
            os.closerange(3, os.sysconf("SC_OPEN_MAX"))
            from rlhf.serve_engine import main as serve

            serve(component, self._job_dir)
            code = 0
        except SystemExit as leaving:
            code = leaving.code if isinstance(leaving.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)

    def _reap(self) -> None:
        """Report every engine that has ended."""
        for component, pid in list(self._engines.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                del self._engines[component]
                self._tell({"component": component, "exit_code": os.waitstatus_to_exitcode(status)})

    @staticmethod
    def _tell(message: dict[str, str | int]) -> None:
        os.write(1, json.dumps(message).encode() + b"\n")


def main() -> None:
    """``python -m rlhf.template JOB_DIR train|torch|none``."""
    job_dir, preload = Path(sys.argv[1]), sys.argv[2]
    for module in PRELOADS[preload]:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # a collection in a child would touch, and so copy, every shared page
    Template(job_dir).run()


if __name__ == "__main__":
    main()
