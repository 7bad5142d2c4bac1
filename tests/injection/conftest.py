"""A victim to be hit, and labs around it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.injection.victim import Lab, Victim


@pytest.fixture
def victim() -> Iterator[Victim]:
    one = Victim()
    yield one
    one.close()


@pytest.fixture
def labs() -> Iterator[list[Lab]]:
    started: list[Lab] = []
    yield started
    for lab in started:
        lab.close()
