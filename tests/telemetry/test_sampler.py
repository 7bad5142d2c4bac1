"""The sampler program: it follows components as they come and go, marks what it missed, and ends cleanly."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from storage.reader import read_table
from storage.schemas import METRICS
from telemetry.registry import RegistryWatch
from telemetry.sampler import MACHINE, Rows, Sampler
from telemetry.spec import SOURCES, SamplerSpec, load_spec

ROOT = Path(__file__).resolve().parents[2]


def register(registry: Path, component: str, pid: int, host: str = "rollouts") -> None:
    ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[19])
    entry = {"component": component, "role": "x", "rank": 0, "host": host, "pid": pid, "start_ticks": ticks, "address": ""}
    temporary = registry / f".{component}.tmp"
    temporary.write_text(json.dumps(entry))
    temporary.replace(registry / f"{component}.json")


def samples(rows: Rows) -> dict[tuple[str, str], float | None]:
    """The value of each component's metric."""
    names = [(component, name) for _, component, metrics in rows.series for name, _ in metrics]
    assert len(set(names)) == len(names)
    return dict(zip(names, rows.values, strict=True))


class Job:
    """A registry, a sampler program on it, and sleeping processes for components."""

    def __init__(self, folder: Path) -> None:
        self.registry, self.out, self.spec = folder / "registry", folder / "metrics", folder / "spec.json"
        self.stop = folder / "stop"
        self.sleepers: list[subprocess.Popen] = []
        self.sampler: subprocess.Popen | None = None

    def start(self, **options) -> None:
        spec = {"registry": str(self.registry), "out": str(self.out), "hz": 20, "stop": str(self.stop), **options}
        self.spec.write_text(json.dumps(spec))
        self.sampler = subprocess.Popen([sys.executable, "-m", "telemetry.sampler", str(self.spec)], cwd=ROOT)

    def component(self, name: str) -> subprocess.Popen:
        sleeper = subprocess.Popen(["sleep", "1000"])
        self.sleepers.append(sleeper)
        register(self.registry, name, sleeper.pid)
        return sleeper

    def values(self, component: str, metric: str) -> list[float | None]:
        table, problems = read_table(self.out, METRICS)
        assert problems == []
        rows = sorted(table.to_pylist(), key=lambda row: row["mono_s"])
        return [row["value"] for row in rows if (row["component"], row["metric"]) == (component, metric)]

    def wait(self, condition) -> None:
        deadline = time.monotonic() + 120
        while not condition():
            assert time.monotonic() < deadline and self.sampler.poll() is None
            time.sleep(0.1)

    def close(self) -> None:
        for process in [*self.sleepers, self.sampler]:
            if process:
                process.kill()
                process.wait()


@pytest.fixture
def job(tmp_path):
    it = Job(tmp_path)
    yield it
    it.close()


def test_it_follows_components_that_come_change_and_die(job):
    """Started before the registry exists; a component appears, dies (alive 0), is replaced (1 again), is taken away."""
    job.start()
    job.wait(lambda: len(job.values(MACHINE, "host_load_1m")) > 1)
    job.registry.mkdir()
    first = job.component("rollout1")
    job.wait(lambda: 1.0 in job.values("rollout1", "process_alive"))
    first.kill()
    first.wait()
    job.wait(lambda: job.values("rollout1", "process_alive")[-1] == 0.0)
    job.component("rollout1")
    job.wait(lambda: job.values("rollout1", "process_alive")[-1] == 1.0)
    (job.registry / "rollout1.json").unlink()
    job.wait(lambda: len(job.values(MACHINE, "host_load_1m")) > len(job.values("rollout1", "process_alive")) + 100)
    alive = [value for value in job.values("rollout1", "process_alive") if value is not None]
    assert [value for index, value in enumerate(alive) if index == 0 or value != alive[index - 1]] == [1.0, 0.0, 1.0]
    assert len(job.values("rollout1", "rss_bytes")) < len(alive)
    assert None not in job.values("rollout1", "uss_bytes")
    assert len(job.values("rollouts", "net_loopback_bytes_per_s")) > 10


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, "stop file"])
def test_told_to_end_it_flushes_and_exits_with_0(job, how):
    """By signal or stop file, before its first flush: exit code 0, and the samples taken are there."""
    job.registry.mkdir()
    job.component("train0")
    job.start()
    job.wait(job.out.exists)
    time.sleep(0.5)
    if how == "stop file":
        job.stop.touch()
    else:
        job.sampler.send_signal(how)
    assert job.sampler.wait(60) == 0
    assert set(job.values("train0", "process_alive")) - {None} == {1.0}


def test_hostile_registrations_do_not_stop_it(tmp_path):
    """Garbage, wrong types and vanished processes in the registry: the others are sampled, the gone one is told dead."""
    (tmp_path / "a.json").write_bytes(b"\xff{")
    (tmp_path / "b.json").write_text('{"component": "b", "host": "h", "pid": "x", "start_ticks": 1}')
    (tmp_path / "c.json").write_text("[" * 100_000)
    (tmp_path / "d.json").mkdir()
    (tmp_path / "gone.json").write_text('{"component": "gone", "host": "h", "pid": 4194999, "start_ticks": 1}')
    sampler = Sampler(SamplerSpec(tmp_path, tmp_path / "out"))
    told = samples(sampler.sample(1.0))
    assert told["gone", "process_alive"] == 0.0
    assert {component for component, _ in told} == {MACHINE, "gone", "pressure"}
    sampler.close()


def test_a_gap_is_null_in_every_series_and_counted(tmp_path):
    """After missed ticks each series has one null row, so that no line is drawn across, and the number missed is told once."""
    sleeper = subprocess.Popen(["sleep", "1000"])
    try:
        register(tmp_path, "train0", sleeper.pid)
        sampler = Sampler(SamplerSpec(tmp_path, tmp_path / "out", sources=tuple(SOURCES), folders=(tmp_path,)))
        taken, gap = samples(sampler.sample(1.0)), samples(sampler.missed(7))
        sampler.close()
    finally:
        sleeper.kill()
        sleeper.wait()
    assert {metric for _, metric in set(gap) - set(taken)} == {"sampler_missed_ticks"}
    assert {metric for _, metric in set(taken) - set(gap)} == {"pss_bytes", "uss_bytes", "source_available"}
    assert (tmp_path.name, "disk_free_bytes") in gap
    assert [value for value in gap.values() if value is not None] == [7.0]


def test_what_is_not_here_is_told(tmp_path, caplog):
    """Each source asked for has a flag on the slow beat, 0 with a sentence in the log where there is nothing of it."""
    caplog.set_level("INFO")
    sampler = Sampler(SamplerSpec(tmp_path, tmp_path / "out", sources=("disk", "kernel")))
    sampler._sources["kernel"].lacks = "the moon is in the way"
    for mono_s in (100.0, 101.0, 110.0):
        rows = samples(sampler.sample(mono_s))
        told = {component: value for (component, metric), value in rows.items() if metric == "source_available"}
        has_psi = float(Path("/proc/pressure/io").exists())
        assert told == ({} if mono_s == 101.0 else {"pressure": has_psi, "disk": 1.0, "kernel": 0.0})
    sampler.close()
    assert caplog.messages.count("source kernel: the moon is in the way") == 1


def test_the_registry_is_read_again_only_when_it_may_have_changed(tmp_path):
    """A settled folder is not read twice; one that was touched a moment ago is; a replaced file is noticed."""
    watch = RegistryWatch(tmp_path / "none")
    assert watch.changed() == {}
    register(tmp_path, "train0", 1)
    watch = RegistryWatch(tmp_path)
    assert set(watch.changed()) == set(watch.changed()) == {"train0"}
    deadline = time.monotonic() + 60
    while watch.changed() is not None:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    register(tmp_path, "train1", 1)
    assert set(watch.changed()) == {"train0", "train1"}


@pytest.mark.parametrize("change", [{"hz": 0}, {"hz": 1000}, {"hertz": 2}, {"sources": ["weather"]}])
def test_a_wrong_spec_is_refused(tmp_path, change):
    """A rate out of range or an unknown key raises before anything is sampled."""
    path = tmp_path / "spec.json"
    path.write_text(json.dumps({"registry": "r", "out": "o", **change}))
    with pytest.raises((ValueError, TypeError)):
        load_spec(path)
