"""The page that says what is modelled, and by which tests it is held."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CITATION = re.compile(r"`((?:tests/\w+/)?test_\w+\.py)::(test_\w+)`")


def test_every_test_that_the_page_names_exists() -> None:
    """A mechanism is not said to be held by a test that is not there."""
    cited = CITATION.findall((ROOT / "docs" / "fidelity.md").read_text())
    assert len(cited) > 50
    missing = [f"{file}::{name}" for file, name in cited if name not in _tests(file)]
    assert missing == []


def _tests(file: str) -> set[str]:
    path = ROOT / (file if "/" in file else f"tests/rlhf/{file}")
    if not path.exists():
        return set()
    return {
        node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
