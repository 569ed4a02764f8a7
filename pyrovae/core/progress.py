"""How far a long loop is, on standard error: a bar for people, a line now and then for files."""

from __future__ import annotations

import sys
import warnings
from typing import Any

from tqdm import TqdmWarning
from tqdm import tqdm as terminal

with warnings.catch_warnings():
    warnings.simplefilter("ignore", TqdmWarning)  # no ipywidgets: the notebook has the terminal's bar then
    from tqdm.auto import tqdm as automatic

__all__ = ["progress_bar"]

SECONDS = 10.0
"""Between lines, at least."""

SHARE = 0.02
"""Of the time that is gone, at least, between lines: a run of a day does not fill a log."""


def progress_bar(total: int, what: str, *, show: bool, initial: int = 0) -> Any:
    """A bar of tqdm's: ``update(n)``, ``set_postfix_str(text)``, and a context that closes it.

    Where standard error is no terminal and no notebook's (a pipe, a log) it writes a plain line at the end,
    and before that one every :data:`SECONDS` at most, with no carriage return.

    Args:
        total: Of what is counted.
        what: What is done, before the numbers.
        show: Whether anything is shown.
        initial: What is done already.

    Example:
        >>> with progress_bar(10, "evaluate", show=False) as bar:
        ...     _ = bar.update(10)
    """
    if not show or sys.stderr is None:
        kind = terminal
    elif type(sys.stderr).__module__.startswith("ipykernel"):
        kind = automatic
    else:
        kind = terminal if sys.stderr.isatty() else _Lines
    return kind(total=total, initial=initial, desc=f"{what}: ", disable=not show or sys.stderr is None)


class _Lines(terminal):
    """Lines in place of a bar."""

    said = -1

    def __init__(self, **keywords: Any) -> None:
        form = "{desc}{n_fmt} of {total_fmt} ({percentage:.0f}%), {elapsed} gone, {remaining} left{postfix}"
        super().__init__(bar_format=form, mininterval=SECONDS, miniters=1, leave=False, **keywords)

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """Write a line, unless nothing has been done since the last one; tqdm calls it when it is time."""
        if msg is None and self.n not in (self.initial, self.said):
            self.said = self.n
            self.fp.write(f"{self}\n")
            self.fp.flush()
            self.mininterval = max(SECONDS, SHARE * self.format_dict["elapsed"])
        return False  # there is no bar to be cleared

    def set_description(self, desc: str | None = None, refresh: bool = True) -> None:
        """Change what is said to be done, from the next line on."""
        super().set_description(desc, refresh=False)

    def close(self) -> None:
        """Write the last line."""
        if not self.disable:
            self.display()
        super().close()
