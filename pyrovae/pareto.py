"""The shape of the upper tail of importance weights: how far their mean can be believed."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pyrovae.reductions import WeightSums, as_sums, tail_length

__all__ = ["Tail", "fit_tail", "khat_threshold", "pareto_khat"]

FEWEST_DRAWS, SHORTEST_TAIL = 25, 5
DOMINANT = 0.2  # of all weight: more than this in four draws is no mean of many
EQUAL = 1e-8  # nats: weights that differ by less have no tail worth a shape


def khat_threshold(num_samples: int) -> float:
    r"""The k-hat below which S draws give a reliable mean: min(1 - 1 / log10(S), 0.7).

    References:
        Vehtari et al., Pareto Smoothed Importance Sampling, 2024. arXiv:1507.02646

    Example:
        >>> round(khat_threshold(100), 2), round(khat_threshold(5000), 2)
        (0.5, 0.7)
    """
    return min(1 - 1 / math.log10(num_samples), 0.7) if num_samples > 10 else -math.inf


def pareto_khat(log_weights: Tensor | WeightSums) -> Tensor:
    r"""The shape k of a generalised Pareto distribution fitted to each datum's largest weights.

    The weights have finite moments up to order 1/k: with k above 0.7 the standard error cannot be
    believed, above 1 not even the mean exists. It sees only the tail it was shown: a guide that
    misses a whole mode can look fine.

    Args:
        log_weights: ``[S, batch]`` log-weights in nats, or their sums.

    Returns:
        ``[batch]``, float64. ``-inf`` where the largest weights are equal, all or all but four of
        them (a perfect guide, or a discrete latent, has no tail); ``inf`` where four draws or fewer
        carry a fifth of all weight; ``nan`` for fewer than 25 draws, or where a weight is nan or inf.

    References:
        Vehtari et al., Pareto Smoothed Importance Sampling, 2024. arXiv:1507.02646.
        Zhang and Stephens, A New and Efficient Estimation Method for the Generalized Pareto
        Distribution, Technometrics, 2009.

    Example:
        >>> u = torch.rand(20_000, 1, generator=torch.Generator().manual_seed(0))
        >>> round(pareto_khat(-0.5 * u.log()).item(), 1)  # w = u ** -k with k = 0.5
        0.5
    """
    return fit_tail(as_sums(log_weights)).khat


class Tail(NamedTuple):
    """The generalised Pareto distribution of each datum's largest weights, as parts of the largest one.

    Attributes:
        khat: The shape, ``[batch]``, as :func:`pareto_khat` has it.
        scale: Nan where nothing was fitted.
        cutoff: The weight where the tail begins.
        length: Draws above the cutoff.
    """

    khat: Tensor
    scale: Tensor
    cutoff: Tensor
    length: Tensor

    @property
    def fitted(self) -> Tensor:
        """Where there is a distribution, and not only a verdict: ``[batch]``."""
        return self.khat.isfinite() & self.scale.isfinite()


def fit_tail(sums: WeightSums) -> Tail:
    """Fit the tail of every datum that has one."""
    largest = sums.largest[: tail_length(sums.num_samples) + 1]
    best, last = largest[0], largest[-1]
    # Weights relative to the largest; a cutoff that would underflow counts as the smallest normal.
    smallest = math.log(torch.finfo(torch.float64).tiny)
    cutoff = (last - best).clamp(min=smallest).exp()
    excess = (largest[:-1] - best).exp() - cutoff
    count = (excess > 0).sum(0)
    khat, scale = torch.full_like(cutoff, torch.nan), torch.full_like(cutoff, torch.nan)
    if sums.num_samples < FEWEST_DRAWS:
        return Tail(khat, scale, cutoff, count)
    usable = (best < torch.inf) & ~sums.log_sum.isnan()
    few = (largest[: SHORTEST_TAIL - 1].logsumexp(0) - sums.log_sum).exp()
    verdict = torch.where((few < DOMINANT) & (count < SHORTEST_TAIL), -torch.inf, torch.inf)
    khat = torch.where(usable, verdict, khat)
    khat = torch.where(best.isfinite() & (best - last < EQUAL), -torch.inf, khat)
    fitted = usable & (count >= SHORTEST_TAIL) & (best - last >= EQUAL)
    for n in count[fitted].unique().tolist():
        chosen = fitted & (count == n)
        k, scale[chosen] = _fit(excess[:n, chosen].flip(0))
        khat[chosen] = k.nan_to_num(nan=torch.inf)
    return Tail(khat, scale, cutoff, count)


def _fit(excess: Tensor) -> tuple[Tensor, Tensor]:
    """Zhang and Stephens' estimate of shape and scale from ascending positive excesses ``[n, batch]``.

    A posterior mean under a prior that pulls k toward 0.5 with the weight of ten draws.
    """
    n = len(excess)
    grid = 30 + math.isqrt(n)
    quartile = excess[int(n / 4 + 0.5) - 1]
    steps = 1 - (grid / (torch.arange(1, grid + 1, dtype=excess.dtype, device=excess.device) - 0.5)).sqrt()
    theta = steps[:, None] / (3 * quartile) + 1 / excess[-1]
    k = torch.stack([torch.log1p(-row * excess).mean(0) for row in theta])
    profile = n * ((-theta / k).log() - k - 1)
    theta = (profile.softmax(0) * theta).sum(0)
    k = torch.log1p(-theta * excess).mean(0)
    return (n * k + 10 * 0.5) / (n + 10), -k / theta
