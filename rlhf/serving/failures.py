"""What a failure of the application comes to: the first cause, in one sentence that says what to do."""

from __future__ import annotations

import asyncio

#: What Ray or torch says -> what is to be done.
REMEDIES = {
    "'DeploymentHandle' object is not callable": "call a method of the handle by handle.method.remote(...)",
    "'__call__' that does not exist": "Serve calls an entry by __call__: give the class one",
    "invalid device ordinal": "the replica was given a device that its node does not show",
    "environment variable RANK expected": "Serve sets no RANK: have the application give out ranks",
}


def cause_of(error: BaseException) -> BaseException:
    """What was raised in the replica, out of what Ray wraps around it."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, BaseException) else error


def sentence(error: BaseException | str) -> str:
    """The last line of what was said, and the remedy where one is known; a time-out, which says nothing, by name."""
    text = str(cause_of(error) if isinstance(error, BaseException) else error).strip()
    if isinstance(error, asyncio.TimeoutError) and not text:
        return "timed out"
    said = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), type(error).__name__)
    remedies = [remedy for words, remedy in REMEDIES.items() if words in text]
    return "; ".join([said, *remedies])
