"""A method of RCAEval as one that ranks columns; runs in the environment that has it (`diagnosis.environment`), nowhere else.

Two things are guarded here. The method must be told a data set (any), or the time is a column like the others. And a method
that fails is wrapped to answer all the same, in the order of the columns that it was given: it says so on standard error alone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import redirect_stderr
from io import StringIO
from typing import Any

from diagnosis.columnwise import Asked, Method

#: What RCAEval says when it did not rank.
FALLBACK = "returning the unranked column order"
#: Of a correlation matrix: below this its inverse is noise, or none.
LEAST_EIGENVALUE = 1e-9


class UnrankedError(RuntimeError):
    """The method failed; its words are the text."""


def ranks_of(method: Callable[..., dict[str, Any]], *, graph: bool = False) -> Method:
    """The method, asked as RCAEval's own runner asks it. The ranking raises UnrankedError where there is none.

    ``graph``: it learns a graph, which no method can of columns that follow from one another (`independent`).
    """

    def ranking(asked: Asked) -> list[str]:
        import numpy as np
        import pandas as pd

        np.random.seed(asked.seed)
        rows = len(next(iter(asked.columns.values())))
        columns = independent(asked.columns) if graph else asked.columns
        table = pd.DataFrame({"time": range(rows), **columns})
        with redirect_stderr(StringIO()) as said:
            ranks = method(table, asked.row, dataset="re2-ob", sli=asked.indicator, dk_select_useful=False)["ranks"]
        sys.stderr.write(said.getvalue())
        failed = next((line for line in said.getvalue().splitlines() if FALLBACK in line), "")
        if failed or not ranks:
            raise UnrankedError(failed or "no column varies both before and after the alarm")
        return [str(column) for column in ranks]

    return ranking


def independent(columns: dict[str, list[float]]) -> dict[str, list[float]]:
    """Without each column that follows linearly from those before it, such as the sockets of two workers that never differ.

    Constant columns stay: the method leaves them out itself. So does everything where rows are no more than columns.
    """
    import numpy as np

    varying = {name: np.asarray(values) for name, values in columns.items() if len(set(values)) > 1}
    if not varying or len(next(iter(varying.values()))) <= len(varying):
        return columns
    kept: list[str] = []
    for name in varying:
        tried = np.corrcoef([varying[one] for one in (*kept, name)])
        if not kept or np.linalg.eigvalsh(tried)[0] > LEAST_EIGENVALUE:
            kept.append(name)
    return {name: values for name, values in columns.items() if name in kept or name not in varying}
