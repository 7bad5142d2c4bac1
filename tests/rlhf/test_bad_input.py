"""Whatever reaches a listener of the job: an answer, in a sentence, and the listener goes on."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import requests
from aiohttp import web
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rlhf import links, metaserver, reward
from rlhf.config import JobConfig
from rlhf.dispatch import Dispatch
from rlhf.errors import EngineError
from rlhf.rpc import CALL, CREATE_ENGINE, EVENT
from rlhf.rpc_server import BadRequestError
from rlhf.scheduler import JOBS, Scheduler
from rlhf.stats import StatsTracker
from rlhf.workers import METHODS

CONFIG = JobConfig(train_workers=1, prompts_per_step=2, samples_per_prompt=2)
FIXTURES = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
DEEP = b"[" * 200_000
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)


@pytest.fixture
def folder(job_folder: Callable[[JobConfig], Any]) -> Path:
    made: Path = job_folder(CONFIG).path
    return made


@pytest.fixture
def dispatch_of(folder: Path, tmp_path: Path) -> Callable[[str], Dispatch]:
    def make(component: str) -> Dispatch:
        made = Dispatch(component, CONFIG, StatsTracker(tmp_path / f"{component}.jsonl", component))
        made.serve(CREATE_ENGINE, {}, {})
        return made

    return make


@pytest.mark.parametrize(
    ("component", "meta", "told"),
    [
        ("train0", {"method": "fly"}, "no method 'fly'; a train worker has rendezvous, "),
        ("train0", {"method": "save", "arguments": [1]}, "arguments of save are not an object"),
        ("train0", {"method": "save", "arguments": {}}, "save: step is missing"),
        ("train0", {"method": "save", "arguments": {"step": "one"}}, "save: step is 'one'; wanted: a whole number"),
        ("rollout0", {"method": "generate", "arguments": {"step": 1, "top_k": 3}}, "generate: unknown argument(s) top_k"),
        ("reference0", {"method": "initialize", "arguments": {"x": 1}}, "initialize: unknown argument(s) x; known: none"),
    ],
)
def test_calls_that_make_no_sense_are_told_why(dispatch_of: Any, component: str, meta: dict[str, Any], told: str) -> None:
    """A method that is none, and arguments that are missing, strange or of another type, are one sentence."""
    with pytest.raises(BadRequestError) as refused:
        dispatch_of(component).serve(CALL, meta, {})
    assert str(refused.value).startswith(told)


def test_a_batch_without_a_column_says_which(dispatch_of: Any) -> None:
    """A call without the tensors it needs names the one that is missing and those that are there."""
    with pytest.raises(EngineError, match="DistributedBatchMemoryError: no key 'input_ids'; the batch has none"):
        dispatch_of("reference0").serve(CALL, {"method": "compute_logprobs", "arguments": {"step": 1}}, {})


@FIXTURES
@given(
    role=st.sampled_from(sorted(METHODS)),
    path=st.sampled_from([CALL, EVENT]),
    data=st.data(),
)
def test_any_call_is_served_or_refused(dispatch_of: Any, role: str, path: str, data: st.DataObject) -> None:
    """Any JSON as a call or an event of a worker is a reply, a refusal or an engine's own error, and nothing else."""
    method = data.draw(st.sampled_from(METHODS[role]) | ANYTHING)
    arguments = data.draw(st.dictionaries(st.sampled_from(["step", "version", "port", "x"]), ANYTHING, max_size=2) | ANYTHING)
    meta = {"method": method, "arguments": arguments, "event": data.draw(ANYTHING), "global_step": data.draw(ANYTHING)}
    if method in ("initialize", "update_weights", "update_weights_from_disk", "upload_weights", "save", "recover"):
        return  # they act on the world when their arguments are good; what refuses bad ones is the same for all
    with suppress(BadRequestError, EngineError):
        dispatch_of(f"{role}0").serve(path, meta, {})


class Served:
    """An application of the job on its listener, in a thread."""

    def __init__(self, component: str, purpose: str, app: web.Application):
        self._loop, listener = asyncio.new_event_loop(), links.listen(component, purpose)
        self.url = "http://{}:{}".format(*listener.getsockname())
        self._runner = self._loop.run_until_complete(metaserver.serve_app(app, listener))
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)


@pytest.fixture
def store(folder: Path) -> Iterator[Served]:
    with StatsTracker(folder / "stats" / "metaserver.jsonl", "metaserver") as stats:
        served = Served("metaserver", "weights", metaserver.MetaServer(stats).app())
        yield served
        served.stop()


@pytest.fixture
def scorer(folder: Path) -> Iterator[Served]:
    served = Served("reward", "reward", reward.app())
    yield served
    served.stop()


@pytest.fixture
def scheduler(folder: Path) -> Iterator[Served]:
    served = Served("scheduler", "scheduler", Scheduler({}, folder).app())
    yield served
    served.stop()


def _told(answer: requests.Response) -> bool:
    """Answered, not crashed: a refusal says why, in one line."""
    return answer.ok or (answer.status_code < 500 and 0 < len(answer.text) < 500 and "Traceback" not in answer.text)


@FIXTURES
@given(path=st.sampled_from(["put_json/k", "add_object_to_set/k", "put_binary/k"]), body=st.binary(max_size=60))
@example(path="put_json/k", body=DEEP)
@example(path="add_object_to_set/k", body=b"\xff")
def test_the_store_answers_any_body(store: Served, path: str, body: bytes) -> None:
    """Any bytes are taken or refused with a reason, and what is there can still be asked for."""
    assert _told(requests.put(f"{store.url}/v1/{path}", data=body, timeout=30))
    assert requests.get(f"{store.url}/v1/health", timeout=30).json()["status"] == "healthy"


BODIES = st.binary(max_size=60) | st.sampled_from(
    [b"{}", b"[]", b'{"name":1,"components":[[]]}', b'{"prompts":1,"completions":2}']
)


@FIXTURES
@given(body=BODIES)
@example(body=DEEP)
@example(body=b'{"name": "x", "components": "abc", "scheduleStrategy": 5}')
@example(body=b'{"prompts": ["1"], "completions": []}')
def test_scheduler_and_scorer_answer_any_body(scheduler: Served, scorer: Served, body: bytes) -> None:
    """Any bytes as a job or as completions to score are refused with a reason."""
    for url in (f"{scheduler.url}{JOBS}", f"{scorer.url}/score"):
        assert _told(requests.post(url, data=body, timeout=30)), url


def test_a_component_twice_is_refused(scheduler: Served) -> None:
    """The same worker twice in one job would be two processes of one name."""
    answer = requests.post(f"{scheduler.url}{JOBS}", json={"name": "x", "components": ["train0", "train0"]}, timeout=30)
    assert (answer.status_code, answer.text) == (400, "a component twice: train0, train0")


@FIXTURES
@given(junk=st.binary(min_size=1, max_size=80))
def test_bytes_that_are_no_http_hold_nobody_up(store: Served, junk: bytes) -> None:
    """Half a request or none, on connections that stay open: others are answered meanwhile."""
    host, _, port = store.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=30) as stream:
        stream.sendall(junk)
        assert requests.get(f"{store.url}/v1/health", timeout=30).ok
