"""The logs of a job as its workers write them, made up line by line, and a reader that serves them from memory."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from diagnosis.reader import Metric, Reader, Sample
from diagnosis.topology import waits
from diagnosis.vocabulary import Vocabulary

START_S = 946_700_000.0
STEP_S = 1.0
#: What every worker of a role does in a step: what, when in the step, how long it takes.
PLAN = {
    "train": (("upload_weights", 0.0, 0.05), ("train_start", 0.5, 0.0), ("train_batch", 0.52, 0.08), ("train_end", 0.8, 0.0)),
    "rollout": (
        ("update_weights", 0.0, 0.06),
        ("rollout_start", 0.1, 0.0),
        ("generate", 0.12, 0.08),
        ("rollout_end", 0.4, 0.0),
    ),
}
STAGES = ((0.0, "update weight"), (0.1, "notify_rollout_start_event"), (0.12, "rollout"), (0.4, "notify_rollout_end_event"))
STAGES += ((0.5, "notify_train_start_event"), (0.52, "train"), (0.8, "notify_train_end_event"))


def vocabulary(train: int = 2, rollout: int = 2) -> Vocabulary:
    """The words of a job with so many workers; neutral names that still can be read."""
    roles = {"w-c0": "controller", "w-5c": "scheduler", "w-3e": "metaserver", "w-4e": "reward"}
    roles |= {f"w-7{n:02x}": "train" for n in range(train)} | {f"w-a{n:02x}": "rollout" for n in range(rollout)}
    links = [("w-c0", name, purpose) for name, role in roles.items() if role in PLAN for purpose in ("rpc", "event")]
    links += [(name, "w-3e", "weights") for name, role in roles.items() if role in PLAN] + [("w-c0", "w-5c", "scheduler")]
    links += [(name, "w-4e", "reward") for name, role in roles.items() if role == "rollout"]
    return Vocabulary("case", roles, tuple(links), waits=tuple(waits(roles, links)))


class Job(Reader):
    """Logs and metrics in memory. ``say`` and ``drop`` are what a test does to them."""

    def __init__(self, words: Vocabulary, steps: int = 6) -> None:
        self.words, self.lines = words, {name: [] for name in words.components}  # type: dict[str, list[tuple[float, str, str]]]
        self.samples: dict[str, list[Sample]] = {}
        for step in range(steps):
            self.step(step)
        self.end_s = steps * STEP_S

    def step(self, step: int, late: dict[tuple[str, str], float] | None = None, lost: tuple[tuple[str, str], ...] = ()) -> None:
        """A step; ``late`` adds seconds to some (who, what), ``lost`` never ends. Every log has its lines for it."""
        at, late = step * STEP_S, late or {}
        for offset, what in STAGES:
            self.say("w-c0", at + offset, f"start to {what}, step: {step}, epoch: 0")
        for name, role in self.words.roles.items():
            for what, offset, took in PLAN.get(role, ()):
                if (name, what) in lost:
                    break
                took_s = took + late.get((name, what), 0.0)
                self.serve(name, what, step, at + offset + took_s + 0.002, took_s)

    def serve(self, name: str, what: str, step: int, end_s: float, took_s: float) -> None:
        """The two lines that a worker writes about one request."""
        event = what.split("_")[-1] in ("start", "end")
        key = "version" if "weights" in what else "step"
        did = f"event {what}, global_step: {step}" if event else f"{what} success, {{'{key}': {step}}}"
        self.say(name, end_s - 0.001, did)
        self.say(name, end_s, f"/{'event' if event else 'call'} 200 in {took_s:.3f}s request_id=00ff00ff00ff00ff")

    def say(self, who: str, at_s: float, text: str, level: str = "INFO") -> None:
        """One more line, seconds after the job's first step."""
        self.lines[who].append((at_s, level, text))

    def fail(self, at_s: float) -> None:
        """The controller gives up."""
        self.say("w-c0", at_s, "An error occurred during training, scheduler begin cleanup resource.", "ERROR")
        self.finish(at_s + 0.01)

    def finish(self, at_s: float) -> None:
        """The job is ended in order."""
        self.say("w-c0", at_s, "Stopping job with UID: 00ff00ff00ff")
        for name in self.words.components:
            self.say("w-5c", at_s + 0.1, f"worker {name} (pid {name}) ended with exit code -15", "WARNING")

    def gauge(self, metric: str, subject: str, values: list[float], begin_s: float = 0.0, every_s: float = 0.25) -> None:
        """A series."""
        self.samples.setdefault(metric, []).extend(
            Sample(subject, START_S + begin_s + index * every_s, value) for index, value in enumerate(values)
        )

    def list_files(self) -> list[str]:
        return sorted(f"t{int(name != 'w-c0')}/{name}.log" for name in self.lines)

    def read(self, path: str, start: int = 1, n: int | None = None) -> list[str]:
        told = sorted(self.lines[path[3:-4]], key=lambda line: line[0])
        return [f"{clock(at_s)} {level} {path[3:-4]}: {text}" for at_s, level, text in told]

    def tail(self, path: str, n: int) -> list[str]:
        return self.read(path)[-n:]

    def grep(self, pattern: str, path: str) -> list[tuple[int, str]]:
        raise NotImplementedError

    def list_metrics(self, run: str = "") -> list[Metric]:
        return [Metric(name, "", tuple(sorted({s.subject for s in samples}))) for name, samples in self.samples.items()]

    def query_metric(self, metric: str, subject: str = "", *_: Any, run: str = "", **__: Any) -> list[Sample]:
        found = [] if run else self.samples.get(metric, [])
        return sorted((s for s in found if subject in ("", s.subject)), key=lambda s: (s.time_s, s.subject))


def clock(at_s: float) -> str:
    """Seconds after the job's first step as its logs write them."""
    return datetime.fromtimestamp(START_S + at_s, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
