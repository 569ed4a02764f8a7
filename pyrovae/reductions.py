r"""What log-weights ``[num_samples, batch]`` say: log p(x), its bound, its error, each written once.

Every function takes the tensor, or the running sums of one that was too large to keep.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["WeightSums", "as_sums", "elbo", "ess", "log_evidence", "standard_error", "tail_length"]


def check_count(name: str, value: int) -> None:
    """Refuse a count below 1."""
    if value < 1:
        raise ValueError(f"{name} is {value}: at least 1 is needed")


def tail_length(num_samples: int) -> int:
    r"""Draws that count as the upper tail: min(S / 5, 3 sqrt(S)), rounded up."""
    return math.ceil(min(num_samples / 5, 3 * math.sqrt(num_samples)))


class WeightSums(NamedTuple):
    """What the reductions need of log-weights, summed over draws so that chunks can be joined.

    Three numbers per datum, and the largest weights, which k-hat looks at: the memory of a tensor
    ``[S, batch]`` shrinks to the square root of S.
    """

    num_samples: int
    log_sum: Tensor  # log sum_s w_s
    log_sum_squares: Tensor  # log sum_s w_s^2
    total: Tensor  # sum_s log w_s
    largest: Tensor  # [tail + 1, batch], descending

    @classmethod
    def of(cls, log_weights: Tensor, num_samples: int | None = None) -> WeightSums:
        """Sum up log-weights ``[S, batch]``; ``num_samples`` is the count once all is joined."""
        weights = log_weights.double()
        count = len(weights)
        check_count("the number of log-weights", count)
        kept = min(count, tail_length(num_samples or count) + 1)
        return cls(
            count,
            torch.logsumexp(weights, 0),
            torch.logsumexp(2 * weights, 0),
            weights.sum(0),
            weights.topk(kept, dim=0).values,
        )

    def join(self, other: WeightSums, num_samples: int) -> WeightSums:
        """The sums over both sets of draws, the tail cut for ``num_samples`` draws in all."""
        largest = torch.cat([self.largest, other.largest])
        kept = min(len(largest), tail_length(num_samples) + 1)
        return WeightSums(
            self.num_samples + other.num_samples,
            torch.logaddexp(self.log_sum, other.log_sum),
            torch.logaddexp(self.log_sum_squares, other.log_sum_squares),
            self.total + other.total,
            largest.topk(kept, dim=0).values,
        )


def as_sums(log_weights: Tensor | WeightSums) -> WeightSums:
    """The sums of log-weights ``[S, batch]``; sums are handed back as they are."""
    return log_weights if isinstance(log_weights, WeightSums) else WeightSums.of(log_weights)


def log_evidence(log_weights: Tensor | WeightSums) -> Tensor:
    r"""The importance-sampling estimate of log p(x), a lower bound in expectation.

    .. math:: \log \hat p_S(x) = \log \frac1S \sum_s w_s, \qquad E[\hat p_S(x)] = p(x)

    Args:
        log_weights: ``[S, batch]`` log-weights in nats, or their sums.

    Returns:
        ``[batch]`` in nats, float64. Its bias is about ``-standard_error ** 2 / 2``.

    References:
        Burda et al., Importance Weighted Autoencoders, 2016. arXiv:1509.00519

    Example:
        >>> log_evidence(torch.tensor([[-7.0], [-7.0]]))
        tensor([-7.], dtype=torch.float64)
    """
    sums = as_sums(log_weights)
    return sums.log_sum - math.log(sums.num_samples)


def elbo(log_weights: Tensor | WeightSums) -> Tensor:
    r"""The evidence lower bound of each datum, the mean log-weight.

    .. math:: \mathrm{ELBO}(x) = E_q[\log p(x, z) - \log q(z \mid x)] \approx \frac1S \sum_s \log w_s

    Args:
        log_weights: ``[S, batch]`` log-weights in nats, or their sums.

    Returns:
        ``[batch]`` in nats, float64.

    Example:
        >>> elbo(torch.tensor([[1.0], [3.0]]))
        tensor([2.], dtype=torch.float64)
    """
    sums = as_sums(log_weights)
    return sums.total / sums.num_samples


def ess(log_weights: Tensor | WeightSums) -> Tensor:
    r"""Kish's effective sample size of each datum.

    .. math:: \mathrm{ESS} = \frac{(\sum_s w_s)^2}{\sum_s w_s^2} \in [1, S]

    Args:
        log_weights: ``[S, batch]`` log-weights in nats, or their sums.

    Returns:
        ``[batch]``, in draws; 0 where every weight is zero.

    Example:
        >>> ess(torch.zeros(4, 1))
        tensor([4.], dtype=torch.float64)
    """
    sums = as_sums(log_weights)
    size = (2 * sums.log_sum - sums.log_sum_squares).exp().clamp(1, sums.num_samples)
    return torch.where(torch.isneginf(sums.log_sum), 0.0, size)


def standard_error(log_weights: Tensor | WeightSums) -> Tensor:
    r"""The Monte Carlo standard error of :func:`log_evidence`, by the delta method.

    .. math:: \mathrm{SE}^2 = \frac{S}{S - 1} \Big( \frac1{\mathrm{ESS}} - \frac1S \Big)

    Believe it where :func:`pareto_khat` is below 0.5: above, the weights have no variance, and it
    is too small, the more so the larger k. It knows nothing of modes that the guide never visits.

    Args:
        log_weights: ``[S, batch]`` log-weights in nats, or their sums.

    Returns:
        ``[batch]`` in nats; nan for a single draw, which says nothing of its error, and inf where
        every weight is zero.

    Example:
        >>> standard_error(torch.zeros(4, 1))
        tensor([0.], dtype=torch.float64)
    """
    sums = as_sums(log_weights)
    if sums.num_samples == 1:
        return torch.full_like(sums.log_sum, torch.nan)
    size = sums.num_samples
    return ((1 / ess(sums) - 1 / size) * size / (size - 1)).clamp(min=0).sqrt()
