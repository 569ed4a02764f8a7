"""The time of training, which schedules are functions of."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

__all__ = ["Clock"]


class Clock(NamedTuple):
    """The time of training: steps taken, and epochs finished."""

    step: int = 0
    epoch: int = 0

    def at(self, schedule: Callable[[Clock], float]) -> float:
        """What a schedule comes to now. Read so, and not by itself, it stays live in a compiled step."""
        return schedule(self)

    def ticked(self) -> Clock:
        """A step later."""
        return self._replace(step=self.step + 1)
