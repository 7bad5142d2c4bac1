"""`faultline doctor --serving`: the whole list, its last point being the service itself; and a service that cannot start."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import psutil
import pytest

from rlhf.errors import InferenceEngineError
from rlhf.serving.config import ServingConfig
from rlhf.serving.service import running
from tests.flows.test_command import call

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


def test_doctor_serves_the_policy_and_ends_it(tmp_path: Path) -> None:
    """Every point is in order here, the last one by a completion that was asked for over HTTP."""
    rows = json.loads(call(tmp_path, "doctor", "--serving", "--json").stdout)
    assert [row["check"] for row in rows if not row["ok"]] == []
    assert re.search(r"2 ranks met .* POST /generate said '.*' in \d+ ms", rows[-1]["reason"])


def test_a_service_that_cannot_start_says_why_and_leaves_nothing() -> None:
    """Ranks that look for RANK where there is none: the child's last words are raised, and its node is gone."""
    said = "environment variable RANK and WORLD_SIZE expected, but not set"
    serving = ServingConfig(ranks=1, rank_source="environment")
    with pytest.raises(InferenceEngineError, match=said), running(serving, 300):
        pytest.fail("it serves")
    assert psutil.Process().children(recursive=True) == []


def test_the_node_ends_with_the_service_however_that_ends() -> None:
    """kill -9 of the service leaves no process of its node and none of Serve."""
    with running(ServingConfig(ranks=1), 300) as told:
        (service,) = psutil.Process().children()
        started = service.children(recursive=True)
        assert len(started) > 5 and told["url"].startswith("http://127.0.0.1:")
        node = next(one for one in service.children() if "rlhf.ray_nodes" in one.cmdline())
        folder = Path(node.cmdline()[3]).parent
        service.kill()
        service.wait(30)
        _, left = psutil.wait_procs(started, 150)  # a node drains for up to 30 s
        assert left == []
        shutil.rmtree(folder)  # nobody was left to do it
