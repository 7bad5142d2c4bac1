"""What docs/metrics.md says that the job tells."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.rlhf.job_folder import JobFolder

PAGE = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"


def documented(page: str) -> dict[re.Pattern[str], str]:
    """Names of metrics as patterns (`<what>` is a word), and when they are told; empty = by every job."""
    section = page.split("## Told by the job")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if line.startswith("| `")]
    return {
        re.compile(re.sub(r"<\w+>", r"[a-z0-9_]+", name)): when
        for names, _, _, when, _ in rows
        for name in re.findall(r"`([^`]+)`", names)
    }


def check_told(folder: JobFolder, *when: str) -> None:
    """A job has told every figure that the page says is told by every job, or ``when``, and none that is not on the page."""
    patterns = documented(PAGE.read_text())
    lines = (json.loads(line) for path in (folder.path / "stats").iterdir() for line in path.read_text().splitlines())
    names = {line["metric"] for line in lines}
    assert {name for name in names if not any(pattern.fullmatch(name) for pattern in patterns)} == set()
    wanted = {pattern for pattern, said in patterns.items() if said in ("", *when)}
    assert {pattern.pattern for pattern in wanted if not any(map(pattern.fullmatch, names))} == set()
