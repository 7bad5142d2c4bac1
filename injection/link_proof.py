"""Proofs about a link by datagrams sent along it, each direction that a fault acts on for itself.

What is measured is what all faults on the link do together, so that is what is expected; and that it would be something else
without the one that is to be proved. Where it would not (a loss behind a cut), others hide it: then what they do is measured,
and another process looks that the means stands.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Field

from injection import link_hand
from injection.company import Treatment
from injection.fault import Context, Measurement, RefusedError, Undo

#: `forward` is from the link's source to its destination, `backward` the answers.
Direction = Literal["forward", "backward", "both"]
#: A device of the end that acts, such as eth0: packets of the link that pass by another one are left alone. Empty = any.
Interface = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{0,15}$")]
#: How many datagrams show that the link lets them pass before anything is done to it, and how long they may take.
FIRST_COUNT = 3
FIRST_WAIT_S = 2.0
#: No proof waits longer for one datagram, nor sends more of them.
LONGEST_S, MOST = 10.0, 4000
#: A chance in so many that what is certain for a proof does not come true.
RARE = 1e-6
#: How often a measurement is made again because something else on the link began or ended in the middle of it.
TRIES = 4


def ways(direction: str) -> tuple[str, ...]:
    """The single directions of one that may be both."""
    return ("forward", "backward") if direction == "both" else (direction,)


def path(ctx: Context) -> dict[str, Any]:
    """The link's ends, as the probe is told them."""
    link = ctx.link()
    ends = {"src_host": link.src_host, "src": link.src_address, "dst_host": link.dst_host, "dst": link.dst_address}
    return {**ends, "port": link.dst_port}


def others(ctx: Context, way: str) -> Treatment:
    """What is done to the link besides, in one direction."""
    return ctx.company.others(ctx.name, ctx.link(), way)


def steadily(ctx: Context, measure: Callable[[], Measurement]) -> Measurement:
    """A measurement in the middle of which nothing else began or ended on the link; after a few tries, the last."""
    for _ in range(TRIES):
        moment = ctx.company.moment(ctx.link())
        found = measure()
        if ctx.company.moment(ctx.link()) == moment or ctx.name not in ctx.company:
            break
    return found


def echo(ctx: Context, way: str, count: int, gap_s: float, wait_s: float) -> dict[str, Any]:
    """What became of `count` datagrams sent `gap_s` apart in one direction and waited for `wait_s`."""
    asked = {"count": count, "gap_s": gap_s, "wait_s": wait_s}
    return ctx.ask("link_echo", {"path": path(ctx), "backward": way == "backward", **asked})


def enough(treatment: Treatment) -> int:
    """Datagrams of which at least one passes, but for a rare chance; `MOST` and one where that takes more."""
    if treatment.loss_ratio <= 0:
        return 1
    if treatment.loss_ratio >= 1 - 1 / MOST:
        return MOST + 1
    return min(MOST + 1, math.ceil(treatment.burst_packets * math.log(RARE) / math.log(treatment.loss_ratio)))


def silent(treatment: Treatment) -> bool:
    """Whether no proof would see a datagram pass."""
    return enough(treatment) > MOST or treatment.shortest_s >= LONGEST_S


def judged(
    ctx: Context, undo: Callable[[], Undo], ways_found: dict[str, tuple[bool, bool, dict[str, Any]]], probe: str
) -> Measurement:
    """One proof of several directions: each as expected, hidden by others, and its figures."""
    right = all(ok for ok, _, _ in ways_found.values())
    measured = {f"{way}_{name}": value for way, (_, _, figures) in ways_found.items() for name, value in figures.items()}
    if not any(hidden for _, hidden, _ in ways_found.values()):
        return Measurement(ok=right, probe=probe, measured=measured)
    stands = not link_hand.gone(undo(), ctx.ask).ok
    measured |= {"hidden_by_others": True, "stands": stands}
    return Measurement(ok=right and stands, probe=f"{probe}; others hide it, but it stands", measured=measured)


def company(treatment: Treatment) -> dict[str, Any]:
    """What others did, as figures of a proof; nothing where nobody did."""
    told = {"others_loss_ratio": treatment.loss_ratio, "others_shortest_ms": 1000 * treatment.shortest_s}
    return {name: round(value, 6) for name, value in told.items() if value}


def passes(ctx: Context, direction: str) -> None:
    """Refuse where nothing comes through even now, and not by what others do: then nothing missing later would be a proof."""

    def measure() -> Measurement:
        figures: dict[str, Any] = {}
        for way in ways(direction):
            beside = others(ctx, way)
            if silent(beside):
                continue
            count = max(FIRST_COUNT, enough(beside))
            figures[way] = echo(ctx, way, count, 0.0, FIRST_WAIT_S + beside.longest_s)
            if figures[way]["received_count"] < (1 if beside.loss_ratio else count):
                return Measurement(ok=False, probe=way, measured=figures[way])
        return Measurement(ok=True, probe="", measured={})

    found = steadily(ctx, measure)
    if not found.ok:
        raise RefusedError(f"{ctx.link().name} lets nothing pass {found.probe} even before: {found.measured}")
