"""Progress of a long loop on standard error: a bar in a terminal or notebook, plain lines in a file."""

from __future__ import annotations

import sys
import warnings
from typing import Any

from tqdm import TqdmWarning
from tqdm import tqdm as terminal

with warnings.catch_warnings():
    warnings.simplefilter("ignore", TqdmWarning)  # without ipywidgets a notebook has the terminal's bar
    from tqdm.auto import tqdm as automatic

__all__ = ["progress_bar"]

FORM = "{desc}{n_fmt} of {total_fmt} ({percentage:.0f}%), {elapsed} gone, {remaining} left{postfix}"
SECONDS, SHARE = 10.0, 0.02
"""Lines in a file are at least this many seconds apart, and this share of the elapsed time."""


def progress_bar(total: int, what: str, *, show: bool, initial: int = 0) -> Any:
    """A tqdm bar of ``total`` steps, ``initial`` of them done; ``what`` names the work. A file gets lines."""
    keywords = {"total": total, "initial": initial, "desc": f"{what}: "}
    if not show or sys.stderr is None:
        return terminal(disable=True, **keywords)
    if type(sys.stderr).__module__.startswith("ipykernel"):
        return automatic(**keywords)
    if sys.stderr.isatty():
        return terminal(**keywords)
    return _Lines(bar_format=FORM, mininterval=SECONDS, miniters=1, leave=False, **keywords)


class _Lines(terminal):
    """Writes a line when tqdm would redraw its bar, and a last one at the end."""

    written = -1

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        if msg is None and self.n not in (self.initial, self.written):
            self.written = self.n
            self.fp.write(f"{self}\n")
            self.fp.flush()
            self.mininterval = max(SECONDS, SHARE * self.format_dict["elapsed"])
        return False  # there is no bar to clear

    def close(self) -> None:
        self.refresh()
        super().close()
