"""Ctrl-C and SIGTERM, noticed where it suits."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["Interrupts", "noticed"]


class Interrupts:
    """Whether a signal came, and what is to be raised of it.

    Args:
        shared: Whether other processes have to act on it at the same time: it counts once all know of it.

    Attributes:
        seen: The signal, if one came to this process.
        caught: The one to act on.
    """

    def __init__(self, *, shared: bool = False) -> None:
        self.shared = shared
        self.seen: int | None = None
        self.caught: int | None = None

    def note(self, number: int) -> None:
        """One came."""
        self.seen = number
        if not self.shared:
            self.caught = number

    @property
    def flags(self) -> tuple[bool, bool]:
        """Whether a Ctrl-C, and whether a SIGTERM, came to this process."""
        return self.seen == signal.SIGINT, self.seen == signal.SIGTERM

    def agree(self, interrupted: bool, terminated: bool) -> None:
        """Act, on every process, on what came to any."""
        if interrupted or terminated:
            self.caught = signal.SIGTERM if terminated else signal.SIGINT

    def look(self) -> None:
        """Raise what the signal asks for, if one came.

        Raises:
            KeyboardInterrupt: Of Ctrl-C.
            SystemExit: Of SIGTERM, with code 143.
        """
        if self.caught == signal.SIGINT:
            raise KeyboardInterrupt
        if self.caught is not None:
            raise SystemExit(128 + self.caught)


@contextmanager
def noticed(*, shared: bool = False) -> Iterator[Interrupts]:
    """Inside, a first Ctrl-C or SIGTERM is noted, and a second one acts as it did before.

    On another thread than the main one nothing is noted, since signals are the main one's; nor is a signal
    that the process ignores.

    Args:
        shared: As in :class:`Interrupts`.
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
