"""Figures as inline SVG that takes its colours from the page: one drawing reads in a light and in a dark page."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager

from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from storage.records import Stage

#: Placeholders: drawn as these colours, replaced by variables of the page's style sheet.
INK, MUTED, LINE, FAULT, ERROR, BAND, PAPER = (f"#0000{code:02x}" for code in range(1, 8))
STAGE_COLOURS = {str(stage): f"#0001{code:02x}" for code, stage in enumerate(Stage, 1)}
SERIES = tuple(f"#0002{code:02x}" for code in range(1, 7))

_NAMES = {INK: "ink", MUTED: "muted", LINE: "line", FAULT: "fault", ERROR: "error", BAND: "band", PAPER: "paper"}
_NAMES |= {colour: f"stage-{stage}" for stage, colour in STAGE_COLOURS.items()}
_NAMES |= {colour: f"series-{index}" for index, colour in enumerate(SERIES, 1)}

_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "figure",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 9.5,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": INK,
    "hatch.color": FAULT,
    "hatch.linewidth": 0.8,
    "figure.facecolor": "none",
}


@contextmanager
def drawing(width_in: float, height_in: float) -> Iterator[tuple[Figure, Axes]]:
    """A figure of one panel in the page's style; sizes in inches at 72 units each."""
    with rc_context(_STYLE):
        figure = Figure(figsize=(width_in, height_in), layout="constrained")
        yield figure, figure.add_subplot()


def to_svg(figure: Figure, name: str, description: str) -> Markup:
    """The figure as an inline SVG element. `name` is unique on the page; `description` is for those who do not see it."""
    buffer = io.StringIO()
    figure.savefig(
        buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
    )
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'\s(?:width|height)="[^"]*pt"', "", text, count=2)
    text = _own_ids(text, name)
    text = re.sub("|".join(_NAMES), lambda match: f"var(--{_NAMES[match[0]]})", text)
    return Markup(text.replace("<svg ", f'<svg role="img" aria-label="{escape(description)}" ', 1))  # noqa: S704 - text is escaped


def _own_ids(svg: str, prefix: str) -> str:
    """Ids made unique to this figure: a page holds many, and a reference must not find another one's part."""
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', svg)
    return re.sub(r'(href="#|url\(#)', rf"\1{prefix}-", svg)


def printable(text: str, limit: int = 80) -> str:
    """Text that is safe in XML: no control characters, one line, cut at `limit` characters."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def bare(axes: Axes, *, keep: str = "bottom") -> None:
    """Take away every spine but `keep`."""
    for side in ("left", "right", "top", "bottom"):
        axes.spines[side].set_visible(side == keep)
    axes.tick_params(length=0)
