r"""Expectations under p(z | x) from draws of the guide, and Pareto-smoothed weights.

Smoothing is for expectations only: the mean of smoothed weights is no unbiased estimate of p(x), and
log p(x) is always estimated from raw weights.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pyrovae.evaluation.weights import WeightSums, fit_tail

__all__ = ["Expectation", "expectation", "psis"]


class Expectation(NamedTuple):
    """Mean under p(z | x) of each datum and its Monte Carlo standard error, ``[batch, *event]`` each."""

    mean: Tensor
    standard_error: Tensor


def expectation(log_weights: Tensor, values: Tensor, *, smooth: bool = True) -> Expectation:
    r"""The expectation of any f(z) under p(z | x), per datum, by self-normalised importance sampling.

    .. math:: E_{p(z \mid x)}[f(z)] \approx \mu = \sum_s \bar w_s f(z_s), \qquad
        \mathrm{SE}^2 = \frac{S}{S - 1} \sum_s \bar w_s^2 (f(z_s) - \mu)^2, \qquad
        \bar w_s = \frac{w_s}{\sum_t w_t}

    It is reliable where :func:`pyrovae.pareto_khat` is, of the log-weights and, where f has a heavy tail, of
    ``log_weights + f.abs().log()``. The bias is of the order of 1 / ESS.

    Args:
        log_weights: ``[S, batch]`` log-weights in nats.
        values: ``[S, batch, *event]``, f of the same draws; anything where a weight is zero.
        smooth: Whether to use the weights of :func:`psis`, not the raw ones.

    Returns:
        Mean and standard error, ``[batch, *event]`` each in the unit of f, float64. The error is nan for a
        single draw; both are nan where :func:`psis` is.

    Raises:
        ValueError: There are not as many values as weights.

    References:
        Owen, Monte Carlo Theory, Methods and Examples, 2013, section 9.2. Vehtari et al., Pareto Smoothed
        Importance Sampling, 2024. arXiv:1507.02646

    Example:
        >>> expectation(torch.tensor([[0.0], [0.0]]), torch.tensor([[1.0], [3.0]]))
        Expectation(mean=tensor([2.], dtype=torch.float64), standard_error=tensor([1.], dtype=torch.float64))
    """
    if values.shape[:2] != log_weights.shape:
        raise ValueError(
            f"expectation: values of shape {tuple(values.shape)} for log-weights of shape "
            f"{tuple(log_weights.shape)}: draws come first, then data, then what f returns"
        )
    normalised = psis(log_weights) if smooth else _normalised(log_weights.double())
    weights = normalised.exp().reshape(*log_weights.shape, *[1] * (values.dim() - 2))
    values = torch.where(weights == 0, 0.0, values.double())
    mean = (weights * values).sum(0)
    count = len(log_weights)
    if count == 1:
        return Expectation(mean, torch.full_like(mean, torch.nan))
    spread = (weights * (values - mean)).square().sum(0)
    return Expectation(mean, (spread * count / (count - 1)).sqrt())


def psis(log_weights: Tensor) -> Tensor:
    r"""Pareto-smoothed log-weights: the largest replaced by what the fitted tail expects in their place.

    .. math:: \log \tilde w_{(j)} = \log \min\big( u + F^{-1}\big( (j - \tfrac12) / M \big), \max_s w_s \big),
        \quad j = 1, \dots, M

    F is the generalised Pareto distribution of shape k-hat, fitted to the M draws above the cutoff u. The
    result is for expectations only, :func:`expectation`, and therefore normalised.

    Args:
        log_weights: ``[S, batch]`` log-weights in nats.

    Returns:
        ``[S, batch]``, float64, in the order of the draws; each datum's weights sum to 1. They are the raw
        weights where there is no tail to fit (fewer than 25 draws, the largest weights equal, or all weight
        in a few draws), and nan where a weight is nan or inf, or all are zero.

    References:
        Vehtari et al., Pareto Smoothed Importance Sampling, 2024. arXiv:1507.02646

    Example:
        >>> u = torch.rand(1000, 1, generator=torch.Generator().manual_seed(0))
        >>> log_weights = -0.6 * u.log()  # w = u ** -k with k = 0.6
        >>> smoothed = psis(log_weights).exp()
        >>> raw = log_weights.double().softmax(0)
        >>> round(smoothed.sum().item(), 6), round((smoothed.max() / raw.max()).item(), 2)
        (1.0, 0.51)
    """
    weights = log_weights.double()
    tail = fit_tail(WeightSums.of(weights))
    smoothed = weights.clone()
    for n in tail.length[tail.fitted].unique().tolist():
        chosen = (tail.fitted & (tail.length == n)).nonzero()[:, 0]
        k, scale, cutoff = (part[chosen] for part in (tail.khat, tail.scale, tail.cutoff))
        level = (torch.arange(n, 0, -1, dtype=k.dtype, device=k.device) - 0.5)[:, None] / n
        exponent = -torch.log1p(-level)
        excess = scale * torch.where(k == 0, exponent, torch.expm1(k * exponent) / k)
        largest = weights[:, chosen].topk(n, dim=0)
        smoothed[largest.indices, chosen] = largest.values[0] + (cutoff + excess).log().clamp(max=0)
    return _normalised(smoothed)


def _normalised(log_weights: Tensor) -> Tensor:
    return log_weights - log_weights.logsumexp(0)
