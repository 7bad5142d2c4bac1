"""RCAEval's methods on cases exported to its layout, told when the fault began: the oracle track, which no board ever holds.

    .venv-rcaeval/bin/python -m bench.rcaeval_oracle FOLDER [METHOD...]

Runs in RCAEval's own environment. Loader, methods and scorer are RCAEval's as they are. A method that fails is counted as
wrong; the SLI is the controller's latency, never the faulty service's; a graph is learnt of columns that do not follow from one
another. Prints a JSON line a case and method, and one a method with accuracy by service and by column, beside chance.
"""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import numpy as np
from RCAEval.benchmark.evaluation import Evaluator
from RCAEval.classes.graph import Node
from RCAEval.e2e import nsigma
from RCAEval.e2e.baro import baro
from RCAEval.e2e.circa import circa
from RCAEval.utility import read_data

from diagnosis.rcaeval import FALLBACK, independent

METHODS: dict[str, Callable[..., dict[str, Any]]] = {"baro": baro, "nsigma": nsigma, "circa": circa}
#: In which figure RCAEval's scorer looks for a fault.
FIGURES = {"cpu": "cpu", "mem": "mem", "disk": "diskio", "delay": "latency", "loss": "latency", "socket": "socket"}


def cases(folder: Path) -> Iterator[tuple[Path, Node]]:
    """Each case and its answer, which its folder's name tells."""
    for metrics in sorted(folder.glob("*_*/*/simple_metrics.csv")):
        service, fault = metrics.parent.parent.name.split("_")
        yield metrics.parent, Node(service, FIGURES[fault])


def ask(name: str, case: Path) -> tuple[list[Node], int, str]:
    """(ranked columns, of how many, why there are none)."""
    table = read_data(str(case / "simple_metrics.csv"))
    names = [column for column in table.columns if column != "time"]
    # Drawn by the case: what fails, or finds nothing, answers in the order of the columns.
    draw = np.random.RandomState(sum(map(ord, str(case))))
    draw.shuffle(names)
    np.random.seed(draw.randint(1 << 31))
    if name == "circa":
        names = list(independent({column: table[column].tolist() for column in names}))
    inject_time = int((case / "inject_time.txt").read_text())
    with redirect_stderr(io.StringIO()) as said:
        try:
            ranks = METHODS[name](table[["time", *names]], inject_time, dataset="re2-ob", sli="controller_latency")["ranks"]
        except Exception as error:  # what breaks a method is its answer
            return [], len(names), f"{type(error).__name__}: {error}"
    failed = next((line for line in said.getvalue().splitlines() if FALLBACK in line), "")
    return ([] if failed else [Node(*column.split("_", 1)) for column in ranks]), len(names), failed


def main(argv: list[str]) -> int:
    """Exit code 0 whatever the methods did; 2 without a case."""
    folder, names = Path(argv[0]), argv[1:] or list(METHODS)
    found = list(cases(folder))
    for name in names:
        columns, services = Evaluator(), Evaluator()
        for case, answer in found:
            began = time.monotonic()
            ranks, candidates, failed = ask(name, case)
            took_s = round(time.monotonic() - began, 3)
            who = list(dict.fromkeys(node.entity for node in ranks))
            columns.add_case(ranks, answer, candidates)
            services.add_case([Node(one, "") for one in who], Node(answer.entity, ""), _services(case))
            told = {"case": str(case.relative_to(folder)), "method": name, "took_s": took_s, "failed": failed}
            print(json.dumps({**told, "first": str(ranks[0]) if ranks else "", "services": who}))
        for grain, judge in (("service", services), ("column", columns)):
            rates = {"ac1": judge.accuracy(1), "ac3": judge.accuracy(3), "avg5": judge.average(5)}
            print(json.dumps({"method": name, "grain": grain, "n": judge.num, **rates, "chance_avg5": judge.chance_average(5)}))
    return 0 if found else 2


def _services(case: Path) -> int:
    header = (case / "simple_metrics.csv").read_text().split("\n", 1)[0].strip().split(",")
    return len({column.split("_")[0] for column in header if column != "time"})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
