"""The independent probe: another process that measures on request. Started ahead, so that asking costs no start.

`python -m injection.probe` reads one JSON request a line (`{"name", "arguments"}`) and writes one JSON answer a line.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any, TextIO

from injection import strays
from injection.entry import entry
from injection.measure import ask_here


class ProbeError(RuntimeError):
    """The probe could not measure; the message says why."""


class Probe:
    """The lab's end of a probe process. One request at a time; safe to share between threads.

    It holds no state, so one that was killed is replaced: the proof that a fault is gone must not depend on its luck.
    """

    def __init__(self) -> None:
        self._process = _start()
        self._turn = threading.Lock()
        self._closed = False

    @property
    def pid(self) -> int:
        """The probe's process."""
        return self._process.pid

    def ask(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Have a measurement made. Raises ProbeError."""
        request = json.dumps({"name": name, "arguments": arguments}) + "\n"
        with self._turn:
            line = self._answer(request)
            if not line and not self._closed:
                self._process.wait()
                self._process = _start()
                line = self._answer(request)
        if not line:
            raise ProbeError(f"the probe ended while measuring {name}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ProbeError(f"measuring {name} failed: {answer['error']}")
        return dict(answer["figures"])

    def close(self) -> None:
        """End the probe, also in the middle of a measurement; that one then fails."""
        self._closed = True
        self._process.kill()
        self._process.wait()

    def _answer(self, request: str) -> str:
        """The line that answers; empty when the probe is gone."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            stdin.write(request)
            stdin.flush()
            return stdout.readline()
        except OSError:
            return ""


def _start() -> subprocess.Popen[str]:
    folder = os.environ.get(strays.MARK) or tempfile.gettempdir()
    argv = entry("injection.probe", folder=Path(folder))
    return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def serve(requests: TextIO, answers: TextIO) -> None:
    """Answer until the input ends. A measurement that fails is an answer too."""
    for line in requests:
        request = json.loads(line)
        try:
            answer: dict[str, Any] = {"figures": ask_here(request["name"], request["arguments"])}
        except Exception as error:  # whatever went wrong is what the asker must hear
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def end_with_asker() -> None:
    """Wait until nobody can ask any more, then end, also in the middle of a measurement: whoever asked was killed."""
    asking = select.poll()
    asking.register(sys.stdin, 0)  # 0: told of the other end's being closed, and of nothing else
    asking.poll()
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=end_with_asker, daemon=True).start()
    serve(sys.stdin, sys.stdout)
