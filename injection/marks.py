"""Where in a YAML file a key stands, so that every refusal can name file and line; and YAML read without its traps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

Path_ = tuple[str | int, ...]
Lines = dict[Path_, int]


class ScenarioError(ValueError):
    """A scenario that is refused: one `file:line: key: problem; allowed: ...` a line, before anything has started."""


def read_yaml(path: Path) -> tuple[Any, Lines]:
    """The document as plain Python, and the line (from 1) of each key and item. Raises ScenarioError."""
    try:
        text = path.read_text()
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        lines: Lines = {(): 1}
        if node is not None:
            _walk(node, (), lines, path)
        return yaml.safe_load(text), lines
    except OSError as error:
        raise ScenarioError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ScenarioError(f"{path}: is not UTF-8 text") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ScenarioError(f"{path}:{line}: not YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise ScenarioError(f"{path}: not YAML: {str(error).splitlines()[0]}") from error


def line_of(where: Path_, lines: Lines) -> int:
    """The line of the nearest enclosing thing that has one."""
    while where not in lines:
        where = where[:-1]
    return lines[where]


def _walk(node: yaml.Node, where: Path_, lines: Lines, path: Path) -> None:
    lines.setdefault(where, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            line, inner = key.start_mark.line + 1, (*where, str(key.value))
            if inner in lines:
                raise ScenarioError(f"{path}:{line}: {key.value}: given twice, first in line {lines[inner]}")
            lines[inner] = line
            _walk(value, inner, lines, path)
    elif isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            _walk(item, (*where, number), lines, path)
