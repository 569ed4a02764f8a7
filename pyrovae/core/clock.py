"""The time of training, on which schedules depend."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

__all__ = ["Clock"]


class Clock(NamedTuple):
    """The time of training: the numbers of steps taken and of epochs finished."""

    step: int = 0
    epoch: int = 0

    def at(self, schedule: Callable[[Clock], float]) -> float:
        """The value of a schedule now; read in this way it stays live in a compiled step."""
        return schedule(self)

    def ticked(self) -> Clock:
        """The clock one step later."""
        return self._replace(step=self.step + 1)
