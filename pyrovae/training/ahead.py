"""Steps on a device that runs ahead of Python, which looks at what went wrong every few of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["Ahead", "runs_ahead"]

EVERY = 10
"""Steps between looks at what went wrong on a device that runs ahead."""


def runs_ahead(optimizer: torch.optim.Optimizer, parameters: list[Tensor]) -> bool:
    """Whether the device is ahead of Python, and the optimiser's kernel can be told not to step."""
    return parameters[0].is_cuda and getattr(optimizer, "_step_supports_amp_scaling", False)


class Ahead:
    """On a device that runs ahead: from a bad step on the optimiser's kernel leaves the parameters alone.

    Whether there was one is looked at every few steps, so that Python waits for the device so seldom.
    """

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer
        self.bad: Any = None
        self.since: Any = None
        self.latest: deque[tuple[Any, ...]] = deque(maxlen=EVERY)
        self.steps = 0

    def step(self, total: Tensor, what: tuple[Any, ...], blame: Callable[..., None]) -> None:
        """Note whether a step is good, and tell the optimiser, which comes next.

        Args:
            total: Of loss and gradients: not finite, if one of them is not.
            what: Of the step, for the one who is to blame it.
            blame: Called with what the first bad step was of; raises.
        """
        if self.bad is None:
            self.bad, self.since = (torch.zeros((), device=total.device) for _ in range(2))
        torch.maximum(self.bad, 1 - total.isfinite().float(), out=self.bad)
        self.since += self.bad
        self.optimizer.found_inf = self.bad
        self.latest.append(what)
        self.steps += 1
        if self.steps % EVERY == 0:
            self.look(blame)

    def look(self, blame: Callable[..., None]) -> None:
        """Wait for the device, and blame the first bad step, if there was one."""
        if self.bad is None:
            return
        if self.bad.item():
            blame(*self.latest[-int(self.since.item())])
            self.bad.zero_(), self.since.zero_()  # a sum that overflowed, of numbers that are finite
        self.optimizer.found_inf = None
