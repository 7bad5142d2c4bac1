"""The independent probe: another process that measures on request. Started ahead, so that asking costs no start.

`python -m injection.probe` reads one JSON request a line (`{"name", "arguments"}`) and writes one JSON answer a line.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from typing import Any, TextIO

from injection.measure import ask_here


class ProbeError(RuntimeError):
    """The probe could not measure; the message says why."""


class Probe:
    """The lab's end of a probe process. One request at a time; safe to share between threads."""

    def __init__(self) -> None:
        argv = [sys.executable, "-m", "injection.probe"]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._turn = threading.Lock()

    @property
    def pid(self) -> int:
        """The probe's process."""
        return self._process.pid

    def ask(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Have a measurement made. Raises ProbeError."""
        with self._turn:
            stdin, stdout = self._process.stdin, self._process.stdout
            assert stdin is not None
            assert stdout is not None
            try:
                stdin.write(json.dumps({"name": name, "arguments": arguments}) + "\n")
                stdin.flush()
                line = stdout.readline()
            except OSError as error:
                raise ProbeError(f"the probe is gone: {error}") from error
        if not line:
            raise ProbeError(f"the probe ended while measuring {name}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ProbeError(f"measuring {name} failed: {answer['error']}")
        return dict(answer["figures"])

    def close(self) -> None:
        """End the probe: closing its input is its sign to stop."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


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


if __name__ == "__main__":
    serve(sys.stdin, sys.stdout)
