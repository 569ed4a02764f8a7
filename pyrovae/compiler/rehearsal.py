"""Dry run before capture: collects parameters, buffers, schedules and sites, without side effects."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyrovae.core.clock import Clock
from pyrovae.core.context import NotCapturableError

__all__ = [
    "GraphClock",
    "RecordingClock",
    "Sites",
    "clocked",
    "difference",
    "may_decide",
    "preserve_state",
    "without_grad",
]


class RecordingClock:
    """A clock that records which schedules are asked for."""

    def __init__(self) -> None:
        self.time = Clock()
        self.schedules: list[Callable[[Clock], float]] = []

    def at(self, schedule: Callable[[Clock], float]) -> float:
        """Record a schedule, and return its value."""
        self.schedules.append(schedule)
        return schedule(self.time)

    def ticked(self) -> RecordingClock:
        """The same clock: a dry run is no step."""
        return self

    def __getattr__(self, name: str) -> Any:
        return getattr(self.time, name)


class GraphClock:
    """A clock whose schedules are inputs of the graph; its time would be that of the capture."""

    def __init__(self, values: Tensor) -> None:
        self.time = Clock()
        self.values = iter(values.unbind())

    def at(self, schedule: Callable[[Clock], float]) -> Any:
        """The next input: schedules are asked for in the recorded order."""
        return next(self.values)

    def ticked(self) -> GraphClock:
        """The same clock: a capture is no step."""
        return self

    def __getattr__(self, name: str) -> Any:
        raise NotCapturableError(f"a term reads clock.{name} itself: let it ask clock.at(schedule)")


@contextmanager
def clocked(objective: Any, clock: RecordingClock | GraphClock) -> Iterator[None]:
    """Inside, the objective has this clock, at its own time, if it has one at all."""
    if not hasattr(objective, "clock"):
        yield
        return
    clock.time = objective.clock
    objective.clock = clock
    try:
        yield
    finally:
        objective.clock = clock.time


class Sites(Messenger):
    """Record the sites of a run, to compare it with another."""

    def __init__(self) -> None:
        super().__init__()
        self.sites: list[tuple[Any, ...]] = []
        self.parameters: list[str] = []

    def _pyro_post_sample(self, msg: Any) -> None:
        value = msg["value"]
        shape = tuple(value.shape) if isinstance(value, Tensor) else None
        self.sites.append((msg["name"], shape, msg["is_observed"]))

    def _pyro_post_param(self, msg: Any) -> None:
        self.parameters.append(msg["name"])


def difference(first: list[tuple[Any, ...]], second: list[tuple[Any, ...]]) -> str:
    """The first difference between the sites of two runs, in words."""
    for a, b in zip(first, second, strict=False):
        if a != b:
            return f"'{a[0]}' of shape {a[1]}, then '{b[0]}' of shape {b[1]}"
    return f"{len(first)} of them, then {len(second)}"


def may_decide(buffer: Tensor) -> bool:
    """Whether a buffer's values may decide what a program does: masks, indices and flags.

    Not floating-point ones, such as running statistics, whose changes torch does not always count.
    """
    return buffer.layout == torch.strided and not (buffer.is_floating_point() or buffer.is_complex())


@contextmanager
def preserve_state(buffers: list[Tensor], leaves: list[Tensor]) -> Iterator[None]:
    """Restore what a run that is no step changes: running statistics and gradients."""
    kept = [(buffer, buffer.clone()) for buffer in buffers]
    gradients = [(leaf, leaf.grad) for leaf in leaves if leaf.is_leaf]
    try:
        with without_grad([leaf for leaf, _ in gradients]):
            yield
    finally:
        with torch.no_grad():
            for buffer, before in kept:
                if not (may_decide(buffer) and torch.equal(buffer, before)):  # else its version changes
                    buffer.copy_(before)


@contextmanager
def without_grad(leaves: list[Tensor]) -> Iterator[None]:
    """Inside, leaves have no gradient; afterwards the one they had."""
    kept = [(leaf, leaf.grad) for leaf in leaves if leaf.is_leaf]
    for leaf, _ in kept:
        leaf.grad = None
    try:
        yield
    finally:
        for leaf, gradient in kept:
            leaf.grad = gradient
