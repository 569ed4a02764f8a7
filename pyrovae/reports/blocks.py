"""What a report is made of: sentences, pictures, tables, and text as it was printed."""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pyrovae.core.checks import one_line
from pyrovae.core.random import stream

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pyrovae.reports.subjects import Subject

__all__ = ["Block", "Listed", "Picture", "Printed", "Table", "Text", "picture", "tried"]

DOTS = 110
"""Of a picture, per inch: sharp on a page's width."""

TONES = 256
"""Colours of a picture, a byte each: no eye misses the others, and it takes a third of the room."""


@dataclass(frozen=True)
class Text:
    """A paragraph; or one that says what is not there, and why."""

    said: str
    lack: bool = False
    kind: ClassVar[str] = "text"


@dataclass(frozen=True)
class Listed:
    """Short statements under one another."""

    items: Sequence[str]
    kind: ClassVar[str] = "listed"


@dataclass(frozen=True)
class Printed:
    """Text as a terminal has it."""

    said: str
    kind: ClassVar[str] = "printed"


@dataclass(frozen=True)
class Table:
    """Rows under a head; the first cell of each is what the row is of."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: bool = True
    kind: ClassVar[str] = "table"


@dataclass(frozen=True)
class Picture:
    """A picture inside the page, with its size in pixels and what it shows in words."""

    source: str
    width: int
    height: int
    alt: str
    caption: str
    kind: ClassVar[str] = "picture"


Block = Text | Listed | Printed | Table | Picture


def picture(figure: Figure, alt: str, caption: str) -> Picture:
    """A figure as a PNG that the page carries in itself.

    Args:
        figure: What one of :mod:`pyrovae.plots` returned.
        alt: What it shows, for who does not see it.
        caption: What stands under it.
    """
    from PIL import Image

    drawn, file = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, dpi=DOTS, bbox_inches="tight", facecolor="white")
    with Image.open(drawn) as image:
        few = image.convert("RGB").quantize(TONES, Image.Quantize.MAXCOVERAGE)  # rare colours count too
        few.save(file, "PNG", optimize=True)
        width, height = image.size
    source = f"data:image/png;base64,{b64encode(file.getvalue()).decode()}"
    return Picture(source, width, height, alt, caption)


def tried(subject: Subject, what: str, make: Callable[[], Sequence[Block]]) -> list[Block]:
    """The blocks that ``make`` returns, of draws of their own; a sentence with the reason where it cannot.

    Args:
        subject: The run, whose seed and data are drawn by.
        what: The blocks' name: "No <what>: <reason>." is the sentence.
        make: Raises ValueError, TypeError or RuntimeError where something it needs is not there.
    """
    try:
        with ExitStack() as streams:
            streams.enter_context(stream(f"report, {what}", subject.seed))
            if "data" in subject.found:
                streams.enter_context(subject.data.drawing(f"report, {what}", subject.seed))
            return list(make())
    except (ValueError, TypeError, RuntimeError) as error:  # NotImplementedError is one of these
        return [Text(f"No {what}: {one_line(error).rstrip('.')}.", lack=True)]
