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

    Attributes:
        caught: The signal, if one came.
    """

    def __init__(self) -> None:
        self.caught: int | None = None

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
def noticed() -> Iterator[Interrupts]:
    """Inside, a first Ctrl-C or SIGTERM is noted, and a second one acts as it did before.

    On another thread than the main one nothing is noted, since signals are the main one's; nor is a signal
    that the process ignores.
    """
    interrupts = Interrupts()
    before: dict[int, Any] = {}

    def note(number: int, frame: FrameType | None) -> None:
        interrupts.caught = number
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
