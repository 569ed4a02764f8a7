"""Deferred handling of SIGINT and SIGTERM."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["Interrupts", "noticed"]


class Interrupts:
    """A signal that came to this process (``seen``), and the one to act on (``caught``).

    With ``shared`` all processes act at the same time: a signal counts once all know of it.
    """

    def __init__(self, *, shared: bool = False) -> None:
        self.shared = shared
        self.seen: int | None = None
        self.caught: int | None = None

    def note(self, number: int) -> None:
        """Note a signal."""
        self.seen = number
        if not self.shared:
            self.caught = number

    @property
    def flags(self) -> tuple[bool, bool]:
        """Whether a SIGINT, and whether a SIGTERM, came to this process."""
        return self.seen == signal.SIGINT, self.seen == signal.SIGTERM

    def agree(self, interrupted: bool, terminated: bool) -> None:
        """Act on the signals that came to any process."""
        if interrupted or terminated:
            self.caught = signal.SIGTERM if terminated else signal.SIGINT

    def look(self) -> None:
        """Raise KeyboardInterrupt after a SIGINT, and SystemExit with code 143 after a SIGTERM."""
        if self.caught == signal.SIGINT:
            raise KeyboardInterrupt
        if self.caught is not None:
            raise SystemExit(128 + self.caught)


@contextmanager
def noticed(*, shared: bool = False) -> Iterator[Interrupts]:
    """A block in which the first SIGINT or SIGTERM is noted, and a second one acts as before.

    Only the main thread receives signals, and a signal that the process ignores is not noted.
    """
    interrupts = Interrupts(shared=shared)
    before: dict[int, Any] = {}

    def note(number: int, frame: FrameType | None) -> None:
        interrupts.note(number)
        for each, handler in before.items():
            signal.signal(each, handler)

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(number)
            if handler not in (signal.SIG_IGN, None):
                before[number] = handler
                signal.signal(number, note)
    try:
        yield interrupts
    finally:
        for each, handler in before.items():
            if signal.getsignal(each) is note:
                signal.signal(each, handler)
