"""What figures share: axes without a frame, checks of labels, and colours that differ for every eye."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

__all__ = ["BLUE", "COLOURS", "MOST_CLASSES", "ORANGE", "check_labels", "open_figure", "plain"]

BLUE, ORANGE = "#0072B2", "#D55E00"
COLOURS = (BLUE, ORANGE, "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "black")
"""The palette of Okabe and Ito, which also differs in grey, without yellow: it is too faint on white."""

MOST_CLASSES = 20
"""Number of classes that a figure has room to name."""


def open_figure(width: float, height: float, down: int = 1, across: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure, in inches, and its axes row by row: a faint grid, no frame above and on the right."""
    figure = Figure(figsize=(width, height), layout="constrained")
    panels = list(figure.subplots(down, across, squeeze=False).flat)
    for axes in panels:
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels


def check_labels(labels: Tensor | None, rows: int, what: str) -> None:
    """Refuse labels of other data."""
    if labels is not None and len(labels) != rows:
        raise ValueError(f"{len(labels):,} labels of {rows:,} {what}: pass those of the same data")


def plain(name: str) -> str:
    r"""A name in which a dollar begins no formula.

    Example:
        >>> print(plain("$5 run"))
        \$5 run
    """
    return name.replace("$", "\\$")
