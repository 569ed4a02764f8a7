r"""Do draws come from a density that integrates to 1? What is told apart from chance, and how.

A statistic is the difference of two means of bounded variables. Bernstein's inequality says how
far chance can take it, whatever the distributions are, so that a check that refuses is right.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Features", "Misfit", "Verdict", "slack", "worst_misfit"]

ALARM = 1e-6
"""Probability that chance alone makes a site fail."""

FLOOR = 0.01
"""Differences of means, in standard deviations, that are not worth a word: rounding makes them too."""


class Misfit(NamedTuple):
    """Where draws and density differ most: the cell, what of it, and the two means."""

    cell: int | None  # None: all cells together
    feature: str
    drawn: float
    expected: float


class Verdict(NamedTuple):
    """What was found of each cell's integral, and of its draws."""

    how: str
    log_total: Tensor  # [cells], log of the integral
    error: Tensor  # [cells], what it is known to, in nats
    wrong: Tensor  # [cells], further from 0 than chance or the grid explain
    misfit: Misfit | None
    width: int  # of a value, in real numbers
    blame: str  # "density" or "draws": which of the two is wrong, where that is known


def slack(variance: Tensor, spread: float, count: Tensor | float, tests: int) -> Tensor:
    r"""How far the mean of ``count`` bounded variables may be from its expectation.

    .. math:: P(|\bar g - E g| > t) \le 2 \exp \frac{-n t^2 / 2}{V + R t / 3}

    Args:
        variance: V, of one variable.
        spread: R, its largest less its smallest value.
        count: n.
        tests: How many means share the probability of a false alarm.

    Example:
        >>> slack(torch.tensor(1.0), 4.0, 10_000, tests=1)
        tensor(0.0577)
    """
    log_odds = math.log(2 * tests / ALARM)
    return (2 * variance * log_odds / count).sqrt() + 2 * spread * log_odds / (3 * count)


class Features:
    """Bounded functions of a point: each number and its square, and the log density.

    Standardised by other draws, and cut off at two standard deviations.

    Args:
        points: Draws that no statistic is made of, ``[count, cells, width]``.
        log_density: Theirs, ``[count, cells]``.
    """

    spread = 4.0  # largest less smallest value of any

    def __init__(self, points: Tensor, log_density: Tensor) -> None:
        self.centre, self.scale = points.mean(0), _scale(points)
        self.level, self.range = log_density.mean(0), _scale(log_density)
        width = points.shape[-1]
        which = [f" of number {i}" if width > 1 else "" for i in range(width)]
        self.names = [
            *(f"the mean{each}" for each in which),
            *(f"the spread{each}" for each in which),
            "the log density",
        ]

    def __call__(self, points: Tensor, log_density: Tensor) -> Tensor:
        """``[count, cells, features]``."""
        v = (points - self.centre) / self.scale
        height = (log_density - self.level) / self.range
        return torch.cat([v.clamp(-2, 2), v.square().clamp(max=4), height.clamp(-2, 2)[..., None]], -1)


def worst_misfit(
    features: Features, drawn: Tensor, expected: Tensor, variance: Tensor, spread: float, count: Tensor
) -> Misfit | None:
    """The difference of two means that chance explains least, if it does not explain it.

    Args:
        features: For their names.
        drawn: Means over draws, ``[cells, features]``.
        expected: Means under the density, likewise.
        variance: Of one draw, likewise.
        spread: Range of one draw.
        count: Draws, ``[cells]``.
    """
    cells, number = drawn.shape
    tests = (cells + 1) * number
    allowed = slack(variance, spread, count[:, None], tests) + FLOOR
    ratio = (drawn - expected).abs() / allowed
    together = slack(variance.mean(0), spread, count.sum(), tests) + FLOOR
    pooled = (drawn - expected).mean(0).abs() / together
    if ratio.max() > 1:
        cell, which = divmod(int(ratio.argmax()), number)
        return Misfit(cell, features.names[which], drawn[cell, which].item(), expected[cell, which].item())
    if pooled.max() > 1:
        which = int(pooled.argmax())
        return Misfit(
            None, features.names[which], drawn.mean(0)[which].item(), expected.mean(0)[which].item()
        )
    return None


def _scale(values: Tensor) -> Tensor:
    scale = values.std(0)
    return torch.where((scale > 0) & scale.isfinite(), scale, torch.ones_like(scale))
