"""A host agent as a process of its own, with certificates made for it, and the experimenter's end of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from injection.agent.client import AgentClient
from injection.agent.keys import make_keys, read_keys
from tests.injection.victim import wait_until

COMMAND = [str(Path(sys.executable).parent / "faultline"), "agent", "start"]


def environment(home: Path) -> dict[str, str]:
    return os.environ | {"FAULTLINE_HOME": str(home)}


class RunningAgent:
    """`faultline agent start` in a folder of its own; `state` is where it keeps its journal."""

    def __init__(self, folder: Path, *options: str, prefix: tuple[str, ...] = ()) -> None:
        self.folder, self.state, self.options = folder, folder / "state", options
        self.keys = folder / "keys"
        if not self.keys.exists():
            make_keys(self.keys, ["localhost", "127.0.0.1"])
        where = ["--keys", str(self.keys / "agent"), "--listen", "127.0.0.1:0", "--state", str(self.state)]
        self.process = subprocess.Popen(
            [*prefix, *COMMAND, *where, *options], stdout=subprocess.PIPE, text=True, env=environment(folder / "home")
        )
        self.said: list[str] = []
        while not (self.said and self.said[-1].startswith("agent at ")):
            line = self.process.stdout.readline()
            assert line, f"the agent did not come up: {self.said}"
            self.said.append(line.strip())
        self.address = self.said[-1].removeprefix("agent at ")
        self.client = AgentClient(self.address, read_keys(self.keys / "experimenter", {}))

    def run(self, *faults: dict[str, Any], lease_s: float = 5.0) -> dict[str, Any]:
        return self.client.run({"faults": list(faults), "lease_s": lease_s})

    def audit(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.state / "audit.jsonl").read_text().splitlines()]

    def family(self) -> list[psutil.Process]:
        """The agent and all that it started, watchdogs included."""
        me = psutil.Process(self.process.pid)
        return [me, *me.children(recursive=True)]

    def close(self) -> None:
        """Have it undo everything and end; one that was killed has ended."""
        self.client.close()
        self.process.terminate()
        self.process.wait(60)
        self.process.stdout.close()


def fault(kind: str, pid: int, params: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    target = {"pid": pid} | more.pop("target", {})
    return {"kind": kind, "params": params or {}, "target": target} | more


def proved(client: AgentClient, experiment: str) -> dict[str, Any]:
    """The status once every fault has its proof; the lease is kept meanwhile."""

    def all_proved() -> bool:
        return all("verified" in one for one in client.beat(experiment)["faults"])

    wait_until(all_proved, "every fault has its proof")
    return client.status(experiment)


def ended(client: AgentClient, experiment: str) -> dict[str, Any]:
    wait_until(lambda: client.status(experiment)["state"] == "ended", "the experiment has ended")
    return client.status(experiment)
