"""The shape of the project: what is small stays small, what is apart stays apart, what is locked stays locked."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("flows", "tasks", "adapters", "rlhf", "injection", "telemetry", "diagnosis", "report", "storage")
SOURCES = sorted(path for room in (*ROOMS, "bench") for path in (ROOT / room).rglob("*.py"))
FILE_LINES = 400
FUNCTION_LINES = 40
#: Words that the system under test must not know.
FOREIGN_WORDS = {
    "arm",
    "arms",
    "scenario",
    "scenarios",
    "fault",
    "faults",
    "faulty",
    "faultline",
    "inject",
    "injected",
    "injection",
    "chaos",
}


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_files_are_short() -> None:
    """No source or test file is longer than 400 lines."""
    files = [*SOURCES, *(ROOT / "tests").rglob("*.py")]
    lengths = {_name(path): len(path.read_text().splitlines()) for path in files}
    assert len(lengths) > 50
    assert {name: length for name, length in lengths.items() if length > FILE_LINES} == {}


def test_functions_are_short() -> None:
    """No function of the sources is longer than 40 lines, its docstring included."""
    long = {}
    for path in SOURCES:
        for function in _functions(ast.parse(path.read_text())):
            length = (function.end_lineno or 0) - function.lineno + 1
            if length > FUNCTION_LINES:
                long[f"{_name(path)}:{function.lineno} {function.name}"] = length
    assert long == {}


def test_no_room_for_leftovers() -> None:
    """There is no module called utils, helpers, common or misc."""
    assert [_name(path) for path in SOURCES if path.stem in ("utils", "util", "helpers", "common", "misc")] == []


def test_packages_are_empty() -> None:
    """Every __init__.py is empty: what a package offers is in its files."""
    assert [_name(path) for path in SOURCES if path.name == "__init__.py" and path.read_text()] == []


def test_every_package_is_installed() -> None:
    """Every folder with sources is named in pyproject.toml, and no other."""
    found = {_name(path.parent).replace("/", ".") for path in SOURCES if path.name == "__init__.py"}
    assert set(_pyproject()["tool"]["setuptools"]["packages"]) == found


def test_job_knows_no_words_of_the_lab() -> None:
    """No identifier and no string in `rlhf/` says arm, scenario or fault: no branch there can depend on one."""
    told = {f"{_name(path)}: {word}" for path in (ROOT / "rlhf").rglob("*.py") for word in _words(path) & FOREIGN_WORDS}
    assert told == set()


def test_the_word_search_finds_words(tmp_path: Path) -> None:
    """The search behind the test above sees names in all spellings and texts, and not the inside of words."""
    source = tmp_path / "x.py"
    source.write_text('def on_fault():\n    """A scenario."""\n    isFaulty = f"the {1} Arm"\n    default = farm = "x"\n')
    assert _words(source) & FOREIGN_WORDS == {"fault", "faulty", "arm"}


def _words(path: Path) -> set[str]:
    """Every word of every identifier and string of a module, lower case; docstrings and comments are for people."""
    tree = ast.parse(path.read_text())
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)}
    texts: list[str] = [path.stem]
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            texts.append(node.value)
        texts += [value for _, value in ast.iter_fields(node) if isinstance(value, str) and not isinstance(node, ast.Constant)]
    parts = (part for text in texts for part in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", text))
    return {part.lower() for part in parts}


def test_imports_go_one_way() -> None:
    """Every contract of import-linter is kept."""
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


def test_only_steps_are_tasks() -> None:
    """Below the flows only tasks/steps.py imports Prefect, so that no verb can start a server by being called."""
    importing = {_name(path) for path in SOURCES if "prefect" in _imported(path)}
    assert {name for name in importing if not name.startswith("flows/")} == {"tasks/steps.py"}


def _imported(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def test_every_kind_is_registered() -> None:
    """Every fault kind of the vocabulary has its class and says what it acts on, and there is no other."""
    from injection.registry import FAULTS, TARGETS
    from storage.records import FaultKind

    assert set(FAULTS) == set(FaultKind) == set(TARGETS)


@pytest.mark.parametrize("name", ["requirements", "requirements-rcaeval"])
def test_lock_pins_everything(name: str) -> None:
    """A lock gives one exact version of each package; the exact ones that were wanted are the same."""
    locked = dict(_pins((ROOT / f"{name}.lock").read_text()))
    wanted = dict(_pins((ROOT / f"{name}.in").read_text()))
    assert set(wanted) <= set(locked)
    assert {name: pin for name, pin in locked.items() if not re.fullmatch(r"==[0-9][0-9A-Za-z.]*", pin)} == {}
    assert {name: pin for name, pin in wanted.items() if pin.startswith("==") and pin != locked[name]} == {}


def test_project_and_lock_agree() -> None:
    """What pyproject.toml asks for is in the lock, exact ones in the same version; torch and fastapi are exact."""
    locked = dict(_pins((ROOT / "requirements.lock").read_text()))
    project = _pyproject()["project"]
    asked = dict(_pins("\n".join([*project["dependencies"], *project["optional-dependencies"]["dev"]])))
    assert set(asked) <= set(locked)
    assert {name: pin for name, pin in asked.items() if pin and pin != locked[name]} == {}
    assert asked["torch"] == "==2.13.0"
    assert asked["fastapi"] == "==0.139.2"


def _pins(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        words = line.split("#")[0].strip()
        if words:
            name, pin = re.fullmatch(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?(.*)", words).groups()  # type: ignore[union-attr]
            yield re.sub(r"[-_.]+", "-", name).lower(), pin.strip()


def _pyproject() -> dict:  # type: ignore[type-arg]
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda page: page.name)
def test_pages_point_at_files(page: Path) -> None:
    """Every file of ours that a page of the documentation links to exists."""
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_decisions_are_numbered() -> None:
    """Decisions are numbered without a gap and each number is given once."""
    numbers = sorted(int(path.name[:4]) for path in (ROOT / "docs" / "decisions").glob("[0-9]*.md"))
    assert numbers == list(range(1, len(numbers) + 1))


def test_prefect_file_names_what_is_there() -> None:
    """Every entrypoint of prefect.yaml is a function in a module of ours, under the flow's own name."""
    for deployment in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]:
        module, function = deployment["entrypoint"].rsplit(".", 1)
        tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text())
        assert function in {found.name for found in _functions(tree)}
