"""Weights through the store: whole, or an honest error at the right deadline."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
import torch

from rlhf import links, metaserver
from rlhf.config import JobConfig
from rlhf.errors import InferenceEngineError, TrainEngineError
from rlhf.metaserver import MetaServer, serve_app
from rlhf.stats import StatsTracker
from rlhf.weights import WeightStore
from tests.rlhf.job_folder import JobFolder
from tests.rlhf.relay import redirect, slow_link

CONFIG = JobConfig(time_scale=3600.0, upload_chunk_bytes=1000)


@pytest.fixture
def folder(job_folder: Callable[[JobConfig], JobFolder]) -> JobFolder:
    return job_folder(CONFIG)


@pytest.fixture
def store(folder: JobFolder) -> Iterator[str]:
    """A served store; its address."""
    stats = StatsTracker(folder.path / "stats" / "metaserver.jsonl", "metaserver")
    listener = links.listen("metaserver", "weights")
    loop = asyncio.new_event_loop()
    runner = loop.run_until_complete(serve_app(MetaServer(stats).app(), listener))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield "http://{}:{}/v1".format(*links.listen_address("metaserver", "weights"))
    loop.call_soon_threadsafe(loop.stop)
    thread.join(30)
    loop.run_until_complete(runner.cleanup())
    loop.close()
    stats.close()


def test_shards_arrive_whole(store: str) -> None:
    """What two trainers upload in chunks is what a rollout worker fetches, bit for bit."""
    shards = [{"a": torch.randn(50, 70)}, {"b": torch.randn(3), "c": torch.arange(5)}]
    for rank, shard in enumerate(shards):
        WeightStore(f"train{rank}", CONFIG).publish(shard, rank, version=4)
    fetched = WeightStore("rollout0", CONFIG).fetch(4, ranks=2)
    assert fetched.keys() == {"a", "b", "c"}
    assert all(torch.equal(tensor, {**shards[0], **shards[1]}[name]) for name, tensor in fetched.items())
    manifest = requests.get(f"{store}/get_json/v4/shard0", timeout=5).json()
    assert manifest["chunks"] == -(-manifest["bytes"] // 1000) > 10


def test_a_missing_shard_is_waited_for_until_the_deadline(store: str) -> None:
    """With one shard lacking, fetching ends at its own deadline with UpdateWeightError, not before and not much later."""
    WeightStore("train0", CONFIG).publish({"a": torch.ones(3)}, 0, version=1)
    start = time.monotonic()
    with pytest.raises(
        InferenceEngineError, match=r"UpdateWeightError: Failed to update weights: timed out after .* version 1"
    ):
        WeightStore("rollout0", CONFIG).fetch(1, ranks=2)
    assert time.monotonic() - start >= CONFIG.timeout_s("update_weights") - 0.01


def test_a_slow_upload_is_given_up_by_who_was_told_how_long_it_may_take(store: str) -> None:
    """A link that moves a little all the time trips no time-out of a socket, however long it takes; a bound does."""
    redirect(links.job_dir(), "train0>metaserver:weights", lambda address: slow_link(address, bytes_per_s=10_000))
    trainer, shard = WeightStore("train0", CONFIG), {"a": torch.ones(4000)}
    start = time.monotonic()
    trainer.publish(shard, 0, version=1)
    assert time.monotonic() - start > CONFIG.timeout_s("upload_weights")
    with pytest.raises(
        TrainEngineError, match=r"UploadWeightsError: .* version 2: gave up after \d\.\ds, \d+ of 17 chunks are"
    ):
        trainer.publish(shard, 0, version=2, within_s=0.5)
    assert "v2/shard0" not in requests.get(f"{store}/keys", timeout=5).json()["keys"]


def test_chunks_without_a_manifest_are_invisible(store: str) -> None:
    """A shard counts only once its manifest is there: a torn upload is never loaded."""
    requests.put(f"{store}/put_binary/v2/shard0/0", data=b"x", timeout=5)
    with pytest.raises(InferenceEngineError, match="timed out"):
        WeightStore("rollout0", CONFIG).fetch(2, ranks=1)


def test_a_shard_of_the_wrong_size_is_refused(store: str) -> None:
    """A manifest that promises other bytes than there are is an error, not weights."""
    requests.put(f"{store}/put_binary/v3/shard0/0", data=b"xyz", timeout=5)
    requests.put(f"{store}/put_json/v3/shard0", json={"chunks": 1, "bytes": 9}, timeout=5)
    with pytest.raises(InferenceEngineError, match="has 3 bytes, its manifest says 9"):
        WeightStore("rollout0", CONFIG).fetch(3, ranks=1)


def test_memory_stays_bounded_over_versions(store: str, folder: JobFolder) -> None:
    """An uploader deletes its own keys of two versions ago, and nobody else's; the store tells what it holds."""
    mine, other = WeightStore("train0", CONFIG), WeightStore("train1", CONFIG)
    other.publish({"b": torch.ones(2)}, 1, version=0)
    sizes = []
    for version in range(6):
        mine.publish({"a": torch.ones(1000)}, 0, version)
        sizes.append(requests.get(f"{store}/health", timeout=5).json()["storage_size"])
    assert sizes[1] == sizes[-1] > sizes[0]
    keys = requests.get(f"{store}/keys", timeout=5).json()["keys"]
    assert {key.split("/")[0] for key in keys if "shard0" in key} == {"v4", "v5"}
    assert any(key.startswith("v0/shard1") for key in keys)
    assert folder.stats("metaserver", "store_bytes")[-1] == sizes[-1]
    assert folder.stats("metaserver", "store_keys_count")[-1] == len(keys)


def test_endpoints_answer_as_documented(store: str) -> None:
    """Unknown keys are 404 by name, JSON that is none is 400, deleting works once."""
    missing = requests.get(f"{store}/get_binary/no/such", timeout=5)
    assert (missing.status_code, missing.text) == (404, "Key 'no/such' not found")
    assert requests.put(f"{store}/put_json/k", data=b"{", timeout=5).status_code == 400
    assert not requests.get(f"{store}/has_key/k", timeout=5).json()["has_key"]
    requests.put(f"{store}/put_json/k", json=[1], timeout=5)
    assert requests.get(f"{store}/get_json/k", timeout=5).json() == [1]
    assert [requests.delete(f"{store}/delete/k", timeout=5).status_code for _ in range(2)] == [200, 404]
    assert requests.get(f"{store}/health", timeout=5).json() == {"status": "healthy", "storage_size": 0}


def test_a_key_is_told_as_soon_as_it_is_there(store: str) -> None:
    """Who asks to wait is answered when the key is stored, or when the time is over; a key goes with all that lies under it."""
    assert not requests.get(f"{store}/has_key/v9/shard0?wait_s=0.05", timeout=5).json()["has_key"]
    assert requests.get(f"{store}/has_key/v9/shard0?wait_s=soon", timeout=5).status_code == 400
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(requests.get, f"{store}/has_key/v9/shard0?wait_s=60", timeout=5)
        requests.put(f"{store}/put_binary/v9/shard0/0", data=b"x", timeout=5)
        requests.put(f"{store}/put_binary/v9/shard01", data=b"x", timeout=5)
        assert not waiting.done()
        requests.put(f"{store}/put_json/v9/shard0", json=1, timeout=5)
        assert waiting.result().json()["has_key"]
    assert requests.delete(f"{store}/delete/v9/shard0", timeout=5).ok
    assert requests.get(f"{store}/keys", timeout=5).json()["keys"] == ["v9/shard01"]


def test_sets_and_growing_ids(store: str) -> None:
    """An object is in a set once however often it is added; ids of a key count up from 0; what is no set stays as it is."""
    add = [requests.put(f"{store}/add_object_to_set/peers", json={"ip": ip}, timeout=5).json() for ip in ("a", "b", "a")]
    assert [answer["size"] for answer in add] == [1, 2, 2]
    assert requests.get(f"{store}/get_json/peers", timeout=5).json() == [{"ip": "a"}, {"ip": "b"}]
    ids = [requests.post(f"{store}/allocate_auto_grow_id/{key}", timeout=5).json()["id"] for key in ("x", "x", "y", "x")]
    assert ids == [0, 1, 0, 2]
    requests.put(f"{store}/put_json/one", json=1, timeout=5)
    refused = requests.put(f"{store}/add_object_to_set/one", json=2, timeout=5)
    assert (refused.status_code, refused.text) == (409, "Key 'one' holds no set")
    assert requests.put(f"{store}/add_object_to_set/peers", data=b"{", timeout=5).status_code == 400


@pytest.fixture
def small_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metaserver, "CLIENT_MAX_BYTES", 900)


def test_a_chunk_over_the_size_limit_is_an_upload_error(small_requests: None, store: str) -> None:
    """A request larger than the store takes is refused with 413, which the uploader reports at once."""
    with pytest.raises(TrainEngineError, match=r"UploadWeightsError: .*version 1: HTTP 413"):
        WeightStore("train0", CONFIG).publish({"a": torch.ones(1000)}, 0, version=1)
