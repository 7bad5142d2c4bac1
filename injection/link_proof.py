"""Proofs about a link by datagrams sent along it, each direction that a fault acts on for itself."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from injection.fault import Context, RefusedError

#: `forward` is from the link's source to its destination, `backward` the answers.
Direction = Literal["forward", "backward", "both"]
#: A device of the end that acts, such as eth0: packets of the link that pass by another one are left alone. Empty = any.
Interface = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{0,15}$")]
#: How many datagrams show that the link lets them pass before anything is done to it, and how long they may take.
FIRST_COUNT = 3
FIRST_WAIT_S = 2.0


def ways(direction: str) -> tuple[str, ...]:
    """The single directions of one that may be both."""
    return ("forward", "backward") if direction == "both" else (direction,)


def path(ctx: Context) -> dict[str, Any]:
    """The link's ends, as the probe is told them."""
    link = ctx.link()
    ends = {"src_host": link.src_host, "src": link.src_address, "dst_host": link.dst_host, "dst": link.dst_address}
    return {**ends, "port": link.dst_port}


def echo(ctx: Context, direction: str, count: int, gap_s: float, wait_s: float) -> dict[str, dict[str, Any]]:
    """Direction -> what became of `count` datagrams sent `gap_s` apart and waited for `wait_s`."""
    rest = {"count": count, "gap_s": gap_s, "wait_s": wait_s}
    return {way: ctx.ask("link_echo", {"path": path(ctx), "backward": way == "backward", **rest}) for way in ways(direction)}


def flat(found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The same as one level of figures."""
    return {f"{way}_{name}": value for way, figures in found.items() for name, value in figures.items()}


def passes(ctx: Context, direction: str) -> None:
    """Refuse where nothing comes through even now: then nothing that is missing later would be a proof."""
    for way, figures in echo(ctx, direction, FIRST_COUNT, 0.0, FIRST_WAIT_S).items():
        if figures["received_count"] < FIRST_COUNT:
            raise RefusedError(f"{ctx.link().name} lets nothing pass {way} even before: {figures}")
