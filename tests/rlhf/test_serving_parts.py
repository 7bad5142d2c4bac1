"""What serving is made of, without Ray: seats, the rendezvous, the interface that is needed, and what failures come to."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf.config import JobConfig
from rlhf.errors import InferenceEngineError
from rlhf.meeting import open_store
from rlhf.prompts import encode_prompts
from rlhf.serving import protocol
from rlhf.serving.checklist import environment
from rlhf.serving.config import ServingConfig, serving_config
from rlhf.serving.failures import sentence
from rlhf.serving.group import check_in
from rlhf.serving.seats import Berth, Seat, give_out, rank_from, seat_taken

NODES = st.lists(st.sampled_from("abc"), min_size=1, max_size=12)


@given(NODES, st.integers(0, 8))
def test_seats_are_given_out_once_each(nodes: list[str], devices: int) -> None:
    """Each replica has a rank of its own from 0 to n-1 and, with accelerators, a device of its own that its node really has."""
    berths = [Berth(node, devices) for node in nodes]
    seats = give_out(berths, "cpu")
    assert [seat.rank for seat in seats] == list(range(len(nodes)))
    assert {seat.device for seat in seats} == {"cpu"}
    if max(Counter(nodes).values()) > devices:
        with pytest.raises(InferenceEngineError, match="is out of range"):
            give_out(berths, "cuda")
        return
    taken = [(node, seat.device) for node, seat in zip(nodes, give_out(berths, "cuda"), strict=True)]
    assert len(set(taken)) == len(nodes)
    assert {device for _, device in taken} <= {f"cuda:{number}" for number in range(devices)}


def test_a_device_that_is_not_there_is_refused_by_number() -> None:
    """Two replicas on a node of one accelerator: ordinal, rank and both numbers are named; none is shared silently."""
    with pytest.raises(InferenceEngineError, match=r"ordinal 1 of rank 1 is out of range: its node has 1 CUDA device"):
        give_out([Berth("a", 1), Berth("a", 1)], "cuda")


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({}, "environment variable RANK and WORLD_SIZE expected, but not set"),
        ({"RANK": "0"}, "environment variable WORLD_SIZE expected, but not set"),
        ({"RANK": "one", "WORLD_SIZE": "2"}, "must be whole numbers"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, r"RANK 2 is not in 0\.\.1"),
    ],
)
def test_a_rank_from_the_environment_is_checked(environment: dict[str, str], reason: str) -> None:
    """What is missing or makes no sense is named."""
    with pytest.raises(InferenceEngineError, match=reason):
        rank_from(environment)
    assert rank_from({"RANK": "1", "WORLD_SIZE": "2"}) == (1, 2)


def test_torch_itself_wants_the_rank_in_the_environment() -> None:
    """The words that Serve users meet are torch's, and their remedy is known."""
    code = "import torch.distributed as d; d.init_process_group('gloo')"
    env = {"PATH": "/usr/bin", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0
    assert "environment variable RANK expected, but not set" in done.stderr
    assert sentence(done.stderr).endswith("; Serve sets no RANK: have the application give out ranks")


HASHED = """
from rlhf.serving.seats import Seat, seat_taken
print(seat_taken(Seat(0, 2, 0, "cpu"), "hashed", "rank#abcdef", {}).rank)
"""


def test_a_hashed_rank_is_another_in_each_process() -> None:
    """One tag, hashed as Python does by default, is rank 0 in some processes and rank 1 in others: two replicas collide."""
    ranks = set()
    for seed in ("1", "2", "3", "4", "5", "6"):
        env = {"PYTHONHASHSEED": seed, "PYTHONPATH": "."}
        ranks.add(subprocess.run([sys.executable, "-c", HASHED], env=env, capture_output=True, text=True, check=True).stdout)
        if len(ranks) == 2:
            return
    pytest.fail(f"six seeds, one rank: {ranks}")


def test_colliding_ranks_are_told_at_once_and_missing_ones_at_the_bound() -> None:
    """Two replicas that hash to one rank: the second is refused by name; the first learns within its bound who is missing."""
    tag, other = _colliding_tags()
    store, said = open_store("127.0.0.1"), {}

    def arrive(who: str) -> None:
        seat = seat_taken(Seat(0, 2, 0, "cpu"), "hashed", who, {})
        try:
            check_in(store.clone(), seat, who, 1.0)
        except InferenceEngineError as error:
            said[who] = str(error)

    first = threading.Thread(target=arrive, args=(tag,))
    first.start()
    while not store.check([f"rank{hash(tag) % 2}"]):
        assert first.is_alive()
    arrive(other)
    assert "is wanted by" in said[other] and "ranks must be given out, not hashed" in said[other]
    first.join(60)
    assert said[tag].endswith(f"rank {1 - hash(tag) % 2} of 2 did not arrive within 1 s")


def _colliding_tags() -> tuple[str, str]:
    tags = [f"rank#{number}" for number in range(3)]
    return next((a, b) for a in tags for b in tags if a < b and hash(a) % 2 == hash(b) % 2)


def test_seats_that_are_all_taken_let_everyone_in() -> None:
    """All ranks of a group arrive; none waits for another group's."""
    store, arrived = open_store("127.0.0.1"), []

    def arrive(rank: int) -> None:
        check_in(store.clone(), Seat(rank, 3, rank, "cpu"), f"r{rank}", 60.0)
        arrived.append(rank)

    threads = [threading.Thread(target=arrive, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    assert sorted(arrived) == [0, 1, 2]


def test_what_is_needed_is_there_and_what_is_not_is_named() -> None:
    """The installed Ray and torch have what serving uses; a name or module they lack is told with the version that lacks it."""
    code = """
from rlhf.errors import InferenceEngineError
from rlhf.serving.interface import require, require_all
require_all()
for name in (("ray.serve", "prepare_torch_process_group"), ("ray.train.torch", "prepare_torch_process_group")):
    try:
        require(*name)
    except InferenceEngineError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    lacking, unimportable = done.stdout.splitlines()
    assert lacking.endswith("the installed ray 2.60.0 has no ray.serve.prepare_torch_process_group")
    assert "the installed ray 2.60.0 cannot import ray.train.torch: " in unimportable


def test_a_serving_configuration_is_checked() -> None:
    """Unknown keys and impossible values are refused by name."""
    assert serving_config({"ranks": 3}).cpus == pytest.approx(1.75)
    for data, reason in (
        ({"rank": 1}, "unknown serving key.* rank; known: .*ranks"),
        ({"ranks": 0}, "ranks must be at least 1"),
        ({"rank_source": "drawn"}, "unknown rank_source 'drawn'; known: given, environment, hashed"),
        ({"deploy_s": 0}, "deploy_s must be above 0"),
    ):
        with pytest.raises(ValueError, match=reason):
            serving_config(data)
    assert ServingConfig() == serving_config({})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"prompt_mask": None}, r"prompt_mask must be int64 \[2, 8\], not nothing"),
        ({"prompt_ids": torch.zeros(2, 9, dtype=torch.int64)}, r"prompt_ids must be int64 \[2, 8\], not torch.int64 \[2, 9\]"),
        ({"prompt_ids": torch.zeros(2, 8)}, "not torch.float32"),
        ({"prompt_ids": torch.full((2, 8), 13)}, r"prompt_ids must lie in 0\.\.12"),
        ({"prompt_mask": torch.full((2, 8), -1)}, r"prompt_mask must lie in 0\.\.1"),
        ({"group_id": torch.zeros(3, dtype=torch.int64)}, "must be int64"),
    ],
)
def test_tensors_that_are_no_prompts_are_refused(change: dict[str, torch.Tensor | None], reason: str) -> None:
    """What a trainer sends is checked for names, shapes, kinds and values before any engine sees it."""
    good = {**encode_prompts(["1", "23"], 8).state()}
    ask = protocol.of_tensors({"step": 4}, good, JobConfig())
    assert (len(ask.prompts), ask.step) == (2, 4)
    bad = {name: one for name, one in {**good, **change}.items() if one is not None}
    with pytest.raises(ValueError, match=reason):
        protocol.of_tensors({"step": 4}, bad, JobConfig())


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=8), lambda inner: st.lists(inner, max_size=3)))
def test_any_document_is_understood_or_refused_with_a_reason(value: object) -> None:
    """Whatever JSON stands where prompts and step belong, the answer is a batch or ValueError."""
    config = JobConfig()
    for document in (value, {"prompts": value}, {"prompts": ["1"], "step": value}):
        try:
            ask = protocol.of_json(document, config)
        except ValueError:
            continue
        assert len(ask.prompts) == len(ask.texts) >= 1 and ask.step >= 0
        assert ask.prompts["prompt_ids"].dtype == torch.int64


def test_the_checklist_says_what_is_wrong_before_anything_is_started() -> None:
    """More CPU asked than there is: that point says by how much, the others are tried all the same, the service is not."""
    code = """
import json
from dataclasses import asdict
from rlhf.config import JobConfig
from rlhf.serving.checklist import checklist
from rlhf.serving.checklist import environment
from rlhf.serving.config import ServingConfig
print(json.dumps([asdict(check) for check in checklist(JobConfig(), ServingConfig(cpus_per_rank=1000))]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    checks = {check["check"]: check for check in json.loads(done.stdout)}
    assert {name for name, check in checks.items() if not check["ok"]} == {"processors", "service"}
    assert "2 ranks of 1000 CPU and the entry's 0.25 are 2000.25, this machine has " in checks["processors"]["reason"]
    assert checks["rendezvous"]["reason"] == "ranks can meet on the loopback"
    assert checks["service"]["reason"].startswith("not tried")


def test_the_checklist_reads_the_launchers_variables() -> None:
    """Variables that ranks come from must be in order; those that nobody reads are told as such."""
    given, read = ServingConfig(), ServingConfig(rank_source="environment")
    assert environment({}, given).endswith("ranks are given out")
    assert environment({"RANK": "x", "MASTER_PORT": "1"}, given) == "RANK, MASTER_PORT set, but not read"
    assert environment({"RANK": "1", "WORLD_SIZE": "2"}, read) == "rank 1 of 2 from the environment"
    with pytest.raises(InferenceEngineError, match="RANK and WORLD_SIZE expected"):
        environment({}, read)
