"""What figures share: colours that every eye tells apart, and that differ in grey; axes without a frame."""

from __future__ import annotations

from matplotlib.axes import Axes

__all__ = ["BLUE", "COLOURS", "MOST_CLASSES", "ORANGE", "open_axes", "plain"]

BLUE, ORANGE = "#0072B2", "#D55E00"  # Okabe and Ito's, told apart by every eye and in grey
COLOURS = (BLUE, ORANGE, "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "black")
"""Okabe and Ito's, but for their yellow, which white swallows: of what has a name or a shape besides."""

MOST_CLASSES = 20
"""That have room in a figure to be named."""


def open_axes(axes: Axes) -> None:
    """A faint grid, and no frame above and right."""
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def plain(name: str) -> str:
    r"""A name as it stands: a dollar in it begins no formula.

    Example:
        >>> print(plain("$5 run"))
        \$5 run
    """
    return name.replace("$", "\\$")
