"""GPUs: the real binding on a library with NVML's entry points and known figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from telemetry.gpu import GPU_METRICS, GpuSource

ROOT = Path(__file__).resolve().parents[2]
_ASK = """
import json
from telemetry.gpu import GpuSource
source = GpuSource()
told = [[(one[1], [name for name, _ in one[2]], one[3]) for one in source.read(t)] for t in (1.0, 2.0)]
source.close()
source.close()
print(json.dumps([told, list(source.read(3.0))]))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> list:
    folder = tmp_path_factory.mktemp("nvml")
    source = Path(__file__).with_name("fake_nvml.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", folder / "libnvidia-ml.so.1", source], check=True)
    env = {**os.environ, "LD_LIBRARY_PATH": str(folder)}
    done = subprocess.run([sys.executable, "-c", _ASK], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    readings, after_close = json.loads(done.stdout)
    assert after_close == []
    return readings


def test_every_figure_of_a_card_comes_in_its_unit(told):
    """Percent become ratios, milliwatts watts, MHz Hz; an error is counted once; what GPM tells needs two looks."""
    for beat, inside in zip(told, ([None] * 5, [0.93, 0.64, 0.52, 3 * 2.0**20, 7 * 2.0**20]), strict=True):
        component, names, values = beat[0]
        assert component == "gpu0" and names == [name for name, _ in GPU_METRICS]
        assert values == [0.83, 0.41, 70 * 2.0**30, 80 * 2.0**30, 3, 612.0, 71, 1.98e9, 3.201e9, 4, 2, 5, 6, 1, 79, *inside]


def test_what_a_card_does_not_have_is_missed_and_the_rest_is_told(told):
    """A card without ECC and error events: null there, figures elsewhere."""
    for beat in told:
        component, _, values = beat[1]
        assert component == "gpu1"
        assert values == [0, 0, 0, 80 * 2.0**30, 0, 60.5, 30, 1.98e9, 3.201e9, 1, *[None] * 10]


def test_without_a_driver_there_are_no_cards():
    """Where the library is not there, nothing is told and nothing raised."""
    try:
        source = GpuSource()
        assert [host for host, *_ in source.read(1.0)] == ["machine"] * len(source._cards)
    finally:
        source.close()
