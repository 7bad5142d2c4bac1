"""What every kind of fault owes: limits that hold, company that it bears, a target that may die, a name that tells nothing."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Iterator
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import yaml

from injection import procfs
from injection.child import PROGRAMS, Child, end
from injection.fault import Context, Fault, RefusedError
from injection.fault_page import NOTES
from injection.measure import ask_here
from injection.registry import FAULTS, make_fault, parameter_problem, worded
from injection.target import LivePath, NoSuchTargetError
from storage.records import FaultKind
from tests.injection.victim import Victim

#: Words that would tell a job what is done to it: of the lab, of its kinds, of its helpers.
TELLTALES = {b"faultline", b"fault", b"inject", b"prefect", b"chaos", *(path.stem.encode() for path in PROGRAMS.glob("*.py"))}
#: Kinds that act on a process, with parameters that any process bears.
ON_PROCESS: dict[str, dict[str, Any]] = {
    "process-pause": {},
    "cpu-contention": {"share_percent": 30},
    "memory-pressure": {"headroom_mib": 16},
}
WAYS = {**ON_PROCESS, "device": {"headroom_mib": 1, "where": "device"}}


@pytest.fixture
def victims() -> Iterator[tuple[Victim, Victim]]:
    """The target, and somebody beside it."""
    both = Victim(), Victim()
    for one in both:
        procfs.pin(one.who, max(os.sched_getaffinity(0)))
    yield both
    for one in both:
        one.close()


def armed(kind: str, victim: Victim, job: Path = Path()) -> Fault:
    """A fault that stands ready."""
    ctx = replace(victim.context(), job=job)
    fault = make_fault("memory-pressure" if kind == "device" else kind, WAYS[kind], ctx)
    fault.arm()
    return fault


def shared_device(folder: Path) -> Path:
    (folder / "arena").mkdir()
    (folder / "config.json").write_text(json.dumps({"device": "cpu", "colocated": True, "arena_path": ""}))
    (folder / "arena" / "node1").write_bytes(bytes(4 << 20))
    return folder


EXAMPLES = {kind: notes["example"].get("params", {}) for kind, notes in yaml.safe_load(NOTES.read_text()).items()}
#: Side of a limit -> values that it refuses, and one that it allows.
SIDES = {
    "ge": lambda at: ([at - 1e-3 * max(1.0, abs(at))], at),
    "le": lambda at: ([at + 1e-3 * max(1.0, abs(at))], at),
    "gt": lambda at: ([at, at - 1.0], at + 1e-3),
    "lt": lambda at: ([at, at + 1.0], at - 1e-3),
}


def limits() -> Iterator[tuple[str, str, list[float], float]]:
    """Kind, parameter, values that are refused and one that is allowed, for each limit in the types of all kinds."""
    for kind in FaultKind:
        for name, type_ in get_type_hints(FAULTS[kind].parameters, include_extras=True).items():
            for extra in getattr(type_, "__metadata__", ()):
                for bound in extra.metadata:
                    yield from ((kind, name, *SIDES[side](getattr(bound, side))) for side in SIDES if hasattr(bound, side))


@pytest.mark.parametrize(("kind", "name", "refused", "allowed"), list(limits()))
def test_each_limit_of_each_parameter_is_held(kind: str, name: str, refused: list[float], allowed: float) -> None:
    """A number beyond a limit, not-a-number, infinity, a word: refused by the parameter's name; the limit itself is not."""
    base = {key: value if not isinstance(value, str) or key in worded(kind) else 1e5 for key, value in EXAMPLES[kind].items()}
    if kind == "io-contention":
        base = {"how": "contend", "bytes_per_s": 1e6}
    for value in (*refused, float("nan"), float("inf"), "plenty", None):
        assert parameter_problem(kind, {**base, name: value}).startswith(f"{name}: "), value
    problem = parameter_problem(kind, {**base, name: allowed})
    assert not problem.startswith(f"{name}: input should be") and "finite" not in problem


@pytest.mark.parametrize("order", list(permutations(range(3))), ids=str)
def test_several_on_one_process_are_undone_in_any_order(victims: tuple[Victim, Victim], order: tuple[int, ...]) -> None:
    """Pause, contention and a memory limit at once: each is proved, each is undone alone, and then nothing is left of any."""
    victim, _ = victims
    before = resource.prlimit(victim.who.pid, resource.RLIMIT_AS)
    kinds = list(ON_PROCESS)
    faults = [armed(kind, victim) for kind in kinds]
    undos = []
    for fault in faults:
        undos.append(fault.undo())
        fault.apply()
    for place, number in enumerate(order):
        FAULTS[FaultKind(kinds[number])].revert(undos[number])
        for other in range(3):
            there = not FAULTS[FaultKind(kinds[other])].gone(undos[other], ask_here).ok
            assert there == (other in order[place + 1 :]), (kinds[other], order, place)
    assert resource.prlimit(victim.who.pid, resource.RLIMIT_AS) == before
    assert victim.allocate() == "allocated"


@pytest.mark.parametrize("kind", WAYS)
def test_a_target_that_dies_takes_nothing_along_and_leaves_nothing(
    kind: str, victims: tuple[Victim, Victim], scratch: Path
) -> None:
    """Dead before: refused, and nothing is left. Dead during: undone and proved gone. Who is beside it lives on undisturbed."""
    job = shared_device(scratch)
    victim, beside = victims
    limits = resource.prlimit(beside.who.pid, resource.RLIMIT_AS)
    during, late = armed(kind, victim, job), armed(kind, victim, job)
    undo, unused = during.undo(), late.undo()
    during.apply()
    assert beside.state != "T" and resource.prlimit(beside.who.pid, resource.RLIMIT_AS) == limits
    assert beside.allocate() == "allocated"
    victim.process.kill()
    victim.process.wait()
    with pytest.raises((NoSuchTargetError, RefusedError)):
        late.apply()
    for one, record in ((during, undo), (late, unused)):
        type(one).revert(record)
        assert type(one).gone(record, ask_here).ok
    assert beside.who.alive() and beside.allocate() == "allocated"


@pytest.mark.parametrize("kind", WAYS)
def test_a_second_one_on_the_same_target_is_refused_or_adds_up(
    kind: str, victims: tuple[Victim, Victim], scratch: Path
) -> None:
    """Pause and memory limit refuse a second one; shares of a core and co-tenants add up; the first is undone as if alone."""
    job = shared_device(scratch)
    first, second = armed(kind, victims[0], job), armed(kind, victims[0], job)
    undo = first.undo()
    first.apply()
    other = second.undo()
    if kind in ("process-pause", "memory-pressure"):
        with pytest.raises(RefusedError, match="already"):
            second.apply()
    else:
        second.apply()
        type(second).revert(other)
        assert not type(first).gone(undo, ask_here).ok
    type(first).revert(undo)
    assert type(first).gone(undo, ask_here).ok


def test_a_helper_is_started_by_the_whole_path_of_its_interpreter() -> None:
    """By a bare name Python looks for its library along the path, and takes another Python's where one stands there."""
    child = Child("ballast", 0)
    try:
        first = Path(f"/proc/{child.who.pid}/cmdline").read_bytes().split(b"\0")[0]
        assert Path(os.fsdecode(first)).samefile(f"/proc/{child.who.pid}/exe") and first.startswith(b"/")
    finally:
        end(child.key)


@pytest.mark.parametrize("program", ["spin", "ballast", "tenant", "filler", "writer"])
def test_helpers_tell_nothing(program: str, scratch: Path) -> None:
    """Name, command line, environment and open files of a helper hold no word of the lab; it dies with whoever started it."""
    arguments = {"spin": (0, 0.1), "ballast": (0,), "tenant": (scratch / "file",)}.get(program, (scratch,))
    (scratch / "file").write_bytes(bytes(4096))
    child = Child(program, *arguments)
    own = Path(f"/proc/{child.who.pid}")
    try:
        told = [(own / name).read_bytes() for name in ("cmdline", "comm", "environ")]
        told += [os.fsencode(link.readlink()) for link in (own / "fd").iterdir()]
        said = b"\n".join(told).lower().replace(os.fsencode(scratch), b"")
        assert [word for word in TELLTALES if word in said] == []
    finally:
        end(child.key)


def test_a_context_has_one_kind_of_target(victims: tuple[Victim, Victim]) -> None:
    """A fault that wants a process, a link or a path refuses the others in one sentence that names what was given."""
    me = victims[0].context().target
    path = Context(LivePath(me, Path("recover")), "disk", ask_here)
    with pytest.raises(RefusedError, match="must be a process, not the path train1: recover"):
        path.process()
    with pytest.raises(RefusedError, match="must be a path, not the process train1"):
        victims[0].context().path()
    with pytest.raises(RefusedError, match="must be a link, not the process train1"):
        victims[0].context().link()


def test_words_are_out_of_a_few() -> None:
    """A parameter that takes a word refuses another and names those there are; so is a rate that has no meaning."""
    assert "'nxdomain'" in parameter_problem("dns-failure", {"how": "maybe"})
    for params in ({"how": "hang", "bytes_per_s": 1.0}, {"how": "throttle"}):
        assert "without meaning for hang" in parameter_problem("io-contention", params)
