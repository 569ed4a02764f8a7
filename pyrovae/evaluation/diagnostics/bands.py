r"""Bands in which the whole empirical distribution of uniform ranks lies with a given probability.

Of n independent uniform ranks the number below a point z is Bin(n, z), and from point to point it is a Markov
chain: the probability that it stays between limits everywhere is a product of small matrices, exact.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["LEAST", "Band", "band", "p_value"]

LEAST = 1e-10
"""The least p-value: below, rounding would speak."""


class Band(NamedTuple):
    """Limits of counts at each point, ``[points]``, both within.

    Attributes:
        lower: Least counts.
        upper: Largest counts.
        level: Probability that each point leaves outside by itself, at most.
    """

    lower: Tensor
    upper: Tensor
    level: float


@lru_cache(maxsize=32)
def band(n: int, points: tuple[float, ...], coverage: float) -> Band:
    r"""The narrowest band of equal tails that holds all counts together.

    .. math:: P\big( \forall k: \; l_k \le \#\{u < z_k\} \le h_k \big) \ge c, \qquad
        u_1, \dots, u_n \sim U(0, 1)

    with each point's limits at the same tail probability. Counts are whole numbers, so that the band
    holds a little more than asked.

    Args:
        n: How many ranks.
        points: z, rising, strictly between 0 and 1.
        coverage: c.

    References:
        Säilynoja, Bürkner and Vehtari, Graphical Test for Discrete Uniformity and Its Applications in
        Goodness-of-Fit Evaluation and Multiple Sample Comparison, 2022. arXiv:2103.10522

    Example:
        >>> found = band(100, (0.25, 0.5, 0.75), 0.95)
        >>> found.lower.tolist(), found.upper.tolist()
        ([15, 39, 65], [35, 61, 85])
    """
    low, high = math.log((1 - coverage) / len(points)), math.log(1 - coverage)  # Bonferroni's, and a point's
    if _stays(n, points, math.exp(high)) >= coverage:
        low = high
    while high - low > 1e-4:
        middle = (low + high) / 2
        if _stays(n, points, math.exp(middle)) >= coverage:
            low = middle
        else:
            high = middle
    return Band(*_limits(n, points, math.exp(low)), math.exp(low))


def p_value(counts: Tensor, n: int, points: tuple[float, ...]) -> float:
    """Probability that uniform ranks leave some point's tails as little as the worst of these, or less.

    Args:
        counts: Ranks below each point.
        n: How many ranks.
        points: As for :func:`band`.

    Returns:
        At least ``LEAST``.
    """
    below, above = _tails(n, points)
    at = torch.arange(len(points)), counts
    worst = 2 * torch.minimum(below[at], above[at]).min().item()
    worst *= 1 + 1e-9  # the same tail at z and at 1 - z, but for rounding, is as bad
    if len(points) * worst <= LEAST:  # Bonferroni's bound of it
        return LEAST
    return min(max(1 - _stays(n, points, worst), LEAST), 1.0)


@lru_cache(maxsize=8)
def _tails(n: int, points: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """P(count <= m) and P(count >= m) at each point: ``[points, n + 1]`` each."""
    counts = torch.arange(n + 1, dtype=torch.float64)
    z = torch.tensor(points, dtype=torch.float64)[:, None]
    factorial = _log_factorials(n)
    log_choose = factorial[n] - factorial - factorial.flip(0)
    chance = (log_choose + counts * z.log() + (n - counts) * torch.log1p(-z)).exp()
    return chance.cumsum(-1), chance.flip(-1).cumsum(-1).flip(-1)


def _limits(n: int, points: tuple[float, ...], level: float) -> tuple[Tensor, Tensor]:
    """The least and largest counts of which either tail has more than half the level."""
    below, above = _tails(n, points)
    lower = (below <= level / 2).sum(-1)
    return lower, n - (above <= level / 2).sum(-1)


def _stays(n: int, points: tuple[float, ...], level: float) -> float:
    """Probability that the counts of uniform ranks are within the limits at every point."""
    lower, upper = (limit.tolist() for limit in _limits(n, points, level))
    factorial = _log_factorials(n)
    before, left = 0.0, torch.zeros(1, dtype=torch.long)
    chance = torch.ones(1, dtype=torch.float64)
    for z, least, most in zip(points, lower, upper, strict=True):
        share = (z - before) / (1 - before)  # of the ranks not yet passed, those up to this point
        now = torch.arange(least, most + 1)
        step, rest = now - left[:, None], n - now
        log_choose = factorial[n - left][:, None] - factorial[step.clamp(min=0)] - factorial[rest]
        log_step = log_choose + step.double() * math.log(share) + rest.double() * math.log1p(-share)
        chance = chance @ torch.where(step >= 0, log_step.exp(), 0.0)
        before, left = z, now
    return chance.sum().item()


@lru_cache(maxsize=8)
def _log_factorials(n: int) -> Tensor:
    return torch.lgamma(torch.arange(n + 1, dtype=torch.float64) + 1)
