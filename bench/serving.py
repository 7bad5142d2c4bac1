"""How long serving takes to start and to answer. `python bench/serving.py [RANKS]`; one Ray node on this machine."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import psutil
import requests

from rlhf.config import JobConfig
from rlhf.engines.rollout import RolloutEngine
from rlhf.prompts import sample_prompts
from rlhf.serving.client import ServedRolloutEngine
from rlhf.serving.config import ServingConfig
from rlhf.serving.service import running
from rlhf.task import score

REQUESTS = 40


def times_ms(act: Callable[[], object]) -> str:
    """Median and 95th percentile of `REQUESTS` calls, after three that do not count."""
    taken = []
    for _ in range(REQUESTS + 3):
        start = time.perf_counter()
        act()
        taken.append(1e3 * (time.perf_counter() - start))
    return f"{statistics.median(taken[3:]):6.1f} ms, p95 {statistics.quantiles(taken[3:], n=20)[-1]:6.1f} ms"


def memory_mib() -> float:
    """Proportional memory of all processes that were started from here, MiB."""
    found = 0
    for process in psutil.Process().children(recursive=True):
        try:
            found += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found / (1 << 20)


def main() -> None:
    config, serving = JobConfig(), ServingConfig(ranks=int(sys.argv[1]) if sys.argv[1:] else 2)
    prompts = sample_prompts(config, 0)
    local = RolloutEngine(config, 0)
    weights = dict(local.model.state_dict())
    with running(serving, 300) as told:
        print(f"{serving.ranks} ranks: node {told['node_s']} s, Serve {told['serve_s']} s, all ranks met {told['ready_s']} s")
        print(f"memory of all its processes: {memory_mib():.0f} MiB")
        engine, url = ServedRolloutEngine(config, told["url"]), told["url"]
        print(f"GET /health                 {times_ms(lambda: requests.get(f'{url}/health', timeout=60))}")
        one = {"prompts": ["123"]}
        print(f"POST /generate, one prompt  {times_ms(lambda: requests.post(f'{url}/generate', json=one, timeout=60))}")
        print(f"a step's {len(prompts)} prompts         {times_ms(lambda: engine.generate(prompts, 0, score))}")
        print(f"the same without serving    {times_ms(lambda: local.generate(prompts, 0, score))}")
        print(f"PUT /weights                {times_ms(lambda: engine.load_weights(weights, 1))}")


if __name__ == "__main__":
    main()
