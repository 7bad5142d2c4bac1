"""Real ranks of one training job, each a process, and what they had at their end."""

from __future__ import annotations

import multiprocessing
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def run_ranks(target: Callable[[int, int, str], dict[str, Any]], world: int, folder: Path) -> list[dict[str, Any]]:
    """`target(rank, port, folder)` in `world` processes at once; what each returned, by rank.

    They are forked from one process that has imported what they need: the imports cost more than the work.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch._dynamo", "rlhf.engines.train", "rlhf.sharding", "tests.rlhf.tiny_hf"])
    ranks = [context.Process(target=_run, args=(target, rank, port, str(folder))) for rank in range(world)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(timeout=240)
    codes = [process.exitcode for process in ranks]
    for process in ranks:
        process.kill()
    assert codes == [0] * world
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(world)]


def _run(target: Callable[[int, int, str], dict[str, Any]], rank: int, port: int, folder: str) -> None:
    torch.save(target(rank, port, folder), Path(folder) / f"{rank}.pt")
