"""`kill -9` at random moments over a host agent and what it started, with every kind that it can do: what is left.

    python -m bench.storm_agent RESULTS.jsonl [--kills N] [--seed S]
    python -m bench.storm_agent RESULTS.jsonl --table

As root. A *round* is two experiments of two faults each, asked of a real agent and kept by signs of life until somebody is
killed: half of the time at a moment from the asking on, half of the time once all is in force. The ground: processes, two
networks with a link in use, a disk and a file. A storm goes on where RESULTS end.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from bench.storm_faults import MACHINE_MIB, WAYS
from bench.storm_ground import CONTENT, SLEEPER, _carries, _network, _state, _use
from injection import journal, namespace, strays
from injection.agent.client import AgentError
from injection.capability import AGENT_HOST, BACKENDS, lack
from injection.disk import free_bytes
from injection.journal import Record, State
from injection.measure import ask_here
from injection.measure_memory import available_memory
from injection.memory.pressure import MIB
from injection.recover import FAULTS
from injection.registry import ON_DISK, TARGETS
from injection.target import LiveLink
from storage.records import FaultKind
from tests.injection.agents import RunningAgent
from tests.injection.ends import Server
from tests.injection.grounds import two_hosts

LEASE_S = 5.0
#: What is promised for every single kill, s.
PROMISE_S = LEASE_S + 5.0
LIMIT_S, POLL_S = 30.0, 0.02
FAULTS_AT_ONCE, EXPERIMENTS = 4, 2
#: How often the kill waits for all to be in force.
SETTLED_PART = 0.5
#: The latest moment of a kill after the experiments were asked for, and after all was in force, s.
LATEST_S, LATEST_IN_FORCE_S = 4.0, 2.0
BEGIN_S = 60.0
DISK_MIB = 48
#: How much memory others of the machine may take between the drawing and the act.
ELSEWHERE_MIB = 448
#: Who is killed, in turn: the agent most often.
TOGETHER = ("agent and watchdogs", "agent, keepers and watchdogs")
VICTIMS = ("agent", "agent and watchdogs", "agent", "watchdog", "agent", "agent, keepers and watchdogs", "agent", "injector")
VICTIMS += ("agent", "agent and watchdogs", "agent", "keeper", "agent", "agent and watchdogs", "helper", "probe")
#: What only the lab's own disk, device and names can have done to them.
NOT_HERE: tuple[dict[str, Any], ...] = ({"how": "hang"}, {"where": "device"})


@dataclass(frozen=True)
class Kill:
    """What one kill came to. `gone_s`: until nothing was left; of those killed together, until the next agent had started.

    `left`: what there still was in the end, in words; `in_force`: kinds and means at the moment of the kill.
    """

    seed: int
    number: int
    victim: str
    after_s: float
    kinds: list[str]
    in_force: list[str]
    gone_s: float
    left: list[str]

    @property
    def kept(self) -> bool:
        """Whether the promise was."""
        return not self.left and (self.victim in TOGETHER or self.gone_s <= PROMISE_S)


def ways() -> list[tuple[FaultKind, dict[str, Any]]]:
    """All that the capability table declares for the host of an agent, each kind with each of its parameters."""
    return [
        (kind, params)
        for kind in FAULTS
        for params in WAYS[kind]
        if any(not lack(kind, backend, params) for backend in BACKENDS.get((kind, AGENT_HOST), ()))
        and not any(part.items() <= params.items() for part in NOT_HERE)
    ]


@contextmanager
def disk(folder: Path) -> Iterator[Path]:
    """A small file system on a device of its own."""
    image, at = folder / "image", folder / "disk"
    at.mkdir()
    with image.open("wb") as file:
        file.truncate(DISK_MIB * MIB)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(at)], check=True)
    try:
        yield at
    finally:
        subprocess.run(["umount", str(at)], check=True)


class Ground:
    """What is hit, and eyes that see what is left."""

    def __init__(self, link: LiveLink, folder: Path, at: Path) -> None:
        self.link, self.disk = link, at
        (folder / "free").mkdir()
        self.file = folder / "free" / "model.pt"
        Server(link.dst_host, link.dst_address, link.dst_port)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.fresh()
        threading.Thread(target=_use, args=(link,), daemon=True).start()

    def fresh(self) -> None:
        """The dead are replaced, the file is whole."""
        self.file.write_bytes(CONTENT)
        for name in ("mortal", "one", "two"):
            if name not in self._processes or self._processes[name].poll() is not None:
                self._processes[name] = subprocess.Popen([sys.executable, "-S", "-c", SLEEPER], stdin=subprocess.PIPE)
        self.before = self.look()

    def look(self) -> dict[str, Any]:
        """All that a fault could have left, as values that compare equal when nothing was."""
        probe = self.disk / "probe"
        probe.write_bytes(bytes(4096))
        probe.unlink()
        size, free = free_bytes(self.disk)
        hosts = (self.link.src_host, self.link.dst_host)
        return {
            "networks": {host: namespace.within(host, _network) for host in hosts},
            "link": _carries(self.link),
            "disk": round(16 * free / size),
            "file": self.file.read_bytes() == CONTENT,
            "processes": [_state(self._processes[name].pid) for name in ("one", "two")],
        }

    def asked(self, kind: FaultKind, params: dict[str, Any], dice: random.Random) -> dict[str, Any]:
        """A fault of a request, its target drawn."""
        if params.get("where") == "machine":
            left = available_memory()["available_bytes"] // MIB - MACHINE_MIB - ELSEWHERE_MIB
            params = {**params, "headroom_mib": float(left)}
        name = "mortal" if kind == FaultKind.PROCESS_KILL else dice.choice(("one", "two"))
        target: dict[str, Any] = {"pid": self._processes[name].pid}
        if TARGETS[kind] == ("link",):
            ends = {"src": self.link.src_address, "dst": f"{self.link.dst_address}:{self.link.dst_port}"}
            target["link"] = {**ends, "src_network": self.link.src_host, "dst_network": self.link.dst_host}
        elif TARGETS[kind] == ("path",):
            target["path"] = str(self.disk if kind in ON_DISK else self.file)
        return {"kind": str(kind), "params": params, "target": target, "for_s": dice.choice((3.0, 60.0, 60.0))}

    def close(self) -> None:
        """End the stand-ins."""
        for process in self._processes.values():
            process.kill()
            process.wait()


class Storm:
    """Kills on one ground, one after another."""

    def __init__(self, seed: int, folder: Path, ground: Ground) -> None:
        self._seed, self._folder, self._ground = seed, folder, ground
        allowed = [word for path in (ground.disk, ground.file.parent) for word in ("--allow-folder", str(path))]
        names = {Path(sys.executable).name, Path(sys.executable).resolve().name}
        allowed += [word for name in names for word in ("--allow-program", name)]
        self._options = (*allowed, "--reserve-disk-mib", "1")
        self._agent = RunningAgent(folder, *self._options)
        self._records: dict[str, Record] = {}

    def kill(self, number: int) -> Kill:
        """The kill of that number. Faults that cannot be together fail as in life: then there is less in force."""
        dice = random.Random(f"agent {self._seed} {number}")
        drawn = dice.sample(ways(), FAULTS_AT_ONCE)
        faults = [self._ground.asked(kind, params, dice) for kind, params in drawn]
        victim, settled = VICTIMS[number % len(VICTIMS)], dice.random() < SETTLED_PART
        after_s = (LATEST_IN_FORCE_S if settled else LATEST_S) * dice.random()
        self._records.clear()
        over, begun = threading.Event(), threading.Semaphore(0)
        parts = [faults[at::EXPERIMENTS] for at in range(EXPERIMENTS)]
        asking = [threading.Thread(target=self._hold, args=(part, begun, over)) for part in parts]
        for thread in asking:
            thread.start()
        for _ in asking if settled else ():
            begun.acquire(timeout=BEGIN_S)
        self._note_until(time.monotonic() + after_s)
        struck = self._strike(victim)
        in_force = sorted(f"{one.kind} by {one.backend}" for one in self._records.values() if one.state == State.APPLIED)
        began = time.monotonic()
        over.set()
        gone_s, left = self._await_nothing(victim, began)
        for thread in asking:
            thread.join()
        self._again()
        kinds = [fault["kind"] for fault in faults]
        return Kill(self._seed, number, struck, round(after_s, 3), kinds, in_force, round(gone_s, 3), left)

    def _hold(self, faults: list[dict[str, Any]], begun: threading.Semaphore, over: threading.Event) -> None:
        """An experimenter: asks, and gives signs of life until somebody is killed, or there is nothing more to keep."""
        client = self._agent.client
        with suppress(AgentError, ValueError):
            try:
                name = client.run({"faults": faults, "lease_s": LEASE_S})["experiment"]
            finally:
                begun.release()
            while not over.wait(LEASE_S / 4):
                client.beat(name)

    def _note_until(self, due: float) -> None:
        while True:
            with suppress(ValueError, OSError):
                self._records |= {one.name: one for one in journal.records(self._agent.state / "journal")}
            if time.monotonic() > due:
                return
            time.sleep(POLL_S)

    def _strike(self, victim: str) -> str:
        """Kill; who it was (the agent, where nobody else was there yet)."""
        found = self._roles()
        words = {"agent and watchdogs": ("agent", "watchdog"), "agent, keepers and watchdogs": ("agent", "keeper", "watchdog")}
        chosen = [one for role in words[victim] for one in found[role]] if victim in words else found[victim][:1]
        if not chosen:
            victim, chosen = "agent", found["agent"]
        for one in chosen:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        return victim

    def _roles(self) -> dict[str, list[psutil.Process]]:
        """The agent and what it started; those of a place say nothing by their names and are known by who started them."""
        me = psutil.Process(self._agent.process.pid)
        keepers = [one for one in me.children() if _is_called(one, "injection.keeper")]
        injectors = [one for keeper in keepers for one in _children(keeper)]
        below = [one for injector in injectors for one in _children(injector)]
        helpers = [one for one in below if _is_called(one, "/proc/self/fd/")]
        dogs = [one for one in me.children() if _is_called(one, "injection.watchdog")]
        rest = {"helper": helpers, "probe": [one for one in below if one not in helpers]}
        return {"agent": [me], "keeper": keepers, "injector": injectors, "watchdog": dogs, **rest}

    def _await_nothing(self, victim: str, began: float) -> tuple[float, list[str]]:
        if victim in TOGETHER:  # what is promised then is said of the next agent
            self._agent.close()
            self._agent = RunningAgent(self._folder, *self._options)
        left = ["not looked yet"]
        while left and time.monotonic() < began + LIMIT_S:
            left = self._left()
            time.sleep(POLL_S if left else 0)
        return time.monotonic() - began, left

    def _left(self) -> list[str]:
        """Records that are not undone, processes and folders of experiments, and what the ground shows."""
        open_ = [one for one in journal.records(self._agent.state / "journal") if one.state != State.REVERTED]
        found = [f"fault in force: {one.kind} ({one.state}) {one.reason}" for one in open_] + self._processes()
        if found:
            return found
        for record in self._records.values():
            proof = FAULTS[FaultKind(record.kind)].gone(record.undo, ask_here)
            found += [] if proof.ok else [f"{record.kind}: {proof.measured}"]
        now, before = self._ground.look(), self._ground.before
        return found + [f"{key}: {now[key]}" for key in now if now[key] != before[key]]

    def _processes(self) -> list[str]:
        dogs = [one for one in psutil.process_iter() if _is_called(one, f"injection.watchdog --journal {self._agent.state}")]
        found = [f"watchdog {one.pid}" for one in dogs]
        for spec in self._agent.state.glob("experiments/*/spec.json"):
            with suppress(ValueError):  # being written
                scratch = Path(json.loads(spec.read_text())["socket"]).parent
                found += [f"folder {scratch}"] if scratch.exists() else []
                found += [f"process {one.pid} of {scratch}" for one in strays.marked(scratch)] if scratch.exists() else []
        return found

    def _again(self) -> None:
        """An agent that was killed is started anew; what is told of ended experiments is thrown away."""
        if self._agent.process.poll() is not None:
            self._agent.close()
            self._agent = RunningAgent(self._folder, *self._options)
        for folder in (self._agent.state / "experiments").iterdir():
            shutil.rmtree(folder, ignore_errors=True)
        self._ground.fresh()

    def close(self) -> None:
        """End the agent."""
        self._agent.close()


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.children())
    except psutil.NoSuchProcess:
        return []


def _is_called(process: psutil.Process, words: str) -> bool:
    try:
        return words in " ".join(process.cmdline())
    except psutil.Error:
        return False


def read(path: Path) -> list[Kill]:
    """Results so far."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [Kill(**json.loads(line)) for line in lines if line.endswith("\n")]


def table(kills: list[Kill]) -> list[str]:
    """Rows of Markdown."""
    rows = [
        "| killed | n | faults in force | nothing left after, median | worst | left over |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for victim in sorted({kill.victim for kill in kills}):
        mine = [kill for kill in kills if kill.victim == victim]
        times = sorted(kill.gone_s for kill in mine)
        left = "; ".join(sorted({one for kill in mine for one in kill.left})) or "nothing"
        force = sum(len(kill.in_force) for kill in mine)
        rows.append(f"| {victim} | {len(mine)} | {force} | {times[len(times) // 2]:.1f} s | {times[-1]:.1f} s | {left} |")
    kinds = Counter(one for kill in kills for one in kill.in_force)
    return [*rows, "", "In force at a kill: " + ", ".join(f"{name} {count}" for name, count in sorted(kinds.items())) + "."]


def storm(count: int, seed: int, results: Path) -> None:
    """That many kills, but for those that there are already."""
    have = {kill.number for kill in read(results) if kill.seed == seed}
    folder = Path(tempfile.mkdtemp(prefix="t-", dir="/tmp"))
    try:
        with two_hosts() as made, disk(folder) as at:
            ground = Ground(LiveLink(**json.loads(made)["link"]), folder, at)
            going = Storm(seed, folder, ground)
            try:
                for number in sorted(set(range(count)) - have):
                    kill = going.kill(number)
                    with results.open("a") as file:
                        file.write(json.dumps(asdict(kill)) + "\n")
                    print(
                        f"{number} {kill.victim}, {len(kill.in_force)} in force: {kill.gone_s:.2f} s {kill.left or ''}",
                        flush=True,
                    )
            finally:
                going.close()
                ground.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m bench.storm_agent", description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("--kills", type=int, default=120)
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--table", action="store_true", help="print what there is and do nothing")
    given = parser.parse_args()
    if not given.table:
        storm(given.kills, given.seed, given.results)
    kills = read(given.results)
    print("\n".join(table(kills)))
    return 0 if all(kill.kept for kill in kills) else 1


if __name__ == "__main__":
    sys.exit(main())
