"""A job's configuration: what nobody could run is refused before anything starts, in one sentence that names the key."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.config import JobConfig, Timeouts, job_config

IMPOSSIBLE: list[tuple[dict[str, Any], str]] = [
    ({"stepz": 3}, "unknown job key(s) stepz; known: "),
    ({"steps": "many"}, "steps is 'many'; wanted: a whole number"),
    ({"steps": 2.5}, "steps is 2.5; wanted: a whole number"),
    ({"steps": True}, "steps is True; wanted: a whole number"),
    ({"steps": 0}, "steps is 0; wanted: at least 1"),
    ({"seed": -1}, "seed is -1; wanted: 0 to "),
    ({"time_scale": "1e3"}, "time_scale is '1e3'; wanted: a number"),
    ({"time_scale": 0}, "time_scale is 0; wanted: above 0"),
    ({"time_scale": float("inf")}, "time_scale is inf; wanted: a finite number"),
    ({"learning_rate": float("nan")}, "learning_rate is nan; wanted: a finite number"),
    ({"temperature": -1}, "temperature is -1; wanted: above 0"),
    ({"colocated": "yes"}, "colocated is 'yes'; allowed: true, false"),
    ({"device": "tpu"}, "device is 'tpu'; allowed: cpu, cuda"),
    ({"rollout_engine": "vllm"}, "rollout_engine is 'vllm'; allowed: worker, served"),
    ({"timeouts": 5}, "timeouts is 5; wanted: a mapping with keys "),
    ({"timeouts": {"rcp": 5}}, "unknown timeouts key(s) rcp; known: "),
    ({"timeouts": {"rpc": "long"}}, "timeouts rpc is 'long'; wanted: a number"),
    ({"timeouts": {"rpc": -1}}, "timeouts rpc is -1; wanted: above 0"),
    ({"posture": "legacy"}, "posture is 'legacy'; wanted: a mapping with keys "),
    ({"serving": {"ranks": "two"}}, "serving ranks is 'two'; wanted: a whole number"),
    ({"serving": {"ranks": 0}}, "ranks must be at least 1, not 0"),
    ({"rollout_engine": "served", "colocated": True}, "rollout_engine served: for workload grpo with devices of its own"),
    ({"train_workers": 0}, "train_workers is 0: workload grpo needs at least 1"),
    ({"train_workers": 17}, "prompts_per_step 16: a train worker has at least one prompt's samples, and there are 17"),
    ({"train_workers": 3, "shard_size": 2}, "shard_size 2 does not divide train_workers 3"),
    ({"tensor_parallel_size": 4}, "tensor_parallel_size 4: not built"),
    ({"model_heads": 5}, "model_heads 5 does not divide model_dim 64"),
    ({"model_layers": 0}, "model_layers is 0; wanted: at least 1"),
    ({"min_digits": 7}, "min_digits 7 is above max_digits 6"),
    ({"max_digits": 15}, "max_digits is 15; wanted: at most 14, for the model has 32 positions"),
    ({"upload_chunk_bytes": 0}, "upload_chunk_bytes is 0; wanted: at least 1"),
    ({"rollout_microbatch_prompts": 0}, "rollout_microbatch_prompts is 0; wanted: at least 1"),
]


@pytest.mark.parametrize(("data", "told"), IMPOSSIBLE, ids=[str(data) for data, _ in IMPOSSIBLE])
def test_an_impossible_job_is_refused_in_one_sentence(data: dict[str, Any], told: str) -> None:
    """Unknown keys, other types, absurd figures and impossible topologies are a ValueError that names the key."""
    with pytest.raises(ValueError) as refused:
        job_config(data)
    assert str(refused.value).startswith(told)
    assert "\n" not in str(refused.value)


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    """A model's folder without a model is told with its path as soon as the job is planned."""
    with pytest.raises(ValueError, match=f"model_path {tmp_path}: no safetensors file there"):
        _ = job_config({"model_path": str(tmp_path)}).parameter_bytes


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["rpc", "retry", "ranks", "x"]), inner, max_size=3)
    ),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from([one.name for one in fields(JobConfig)]), ANYTHING, max_size=3))
def test_any_values_are_a_job_or_a_sentence(data: dict[str, Any]) -> None:
    """Whatever stands behind a key, the answer is a configuration that survives JSON or one ValueError, never another error."""
    try:
        made = job_config(data)
    except ValueError:
        return
    assert job_config(asdict(made)) == made
    assert all(made.timeout_s(one.name) > 0 for one in fields(Timeouts))
