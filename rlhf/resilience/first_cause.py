"""Cleaning up after a failure without hiding it: what fails in the cleanup is a consequence, and the cause is told last."""

from __future__ import annotations

import logging
from collections.abc import Callable

logger = logging.getLogger(__name__)

#: Cleans up as far as it can and returns what went wrong, in order.
CleanUp = Callable[[], list[Exception]]


def keep_first_cause(cause: Exception, clean_up: CleanUp) -> None:
    """Clean up after `cause`; whatever fails in it becomes a note of the cause, which stays the last error told."""
    try:
        consequences = clean_up()
    except Exception as error:
        logger.warning("cleanup ended early: %s", error)
        consequences = [error]
    for consequence in consequences:
        cause.add_note(f"while cleaning up: {consequence}")
    logger.error("First cause: %s", cause)
