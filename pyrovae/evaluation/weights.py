r"""Reductions of log-weights ``[num_samples, batch]``: log p(x), its bound, its error and their reliability.

Every function takes the tensor, or the running sums of one that was too large to keep.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pyrovae.core.checks import check_count

__all__ = [
    "KhatClasses",
    "Tail",
    "WeightSums",
    "as_sums",
    "classify_khat",
    "elbo",
    "ess",
    "fit_tail",
    "khat_labels",
    "khat_threshold",
    "log_evidence",
    "pareto_khat",
    "standard_error",
    "tail_length",
]

FEWEST_DRAWS, SHORTEST_TAIL = 25, 5
DOMINANT = 0.2  # of all weight: more than this in four draws is no mean of many
EQUAL = 1e-8  # nats: weights that differ by less have no tail worth a shape


def tail_length(num_samples: int) -> int:
    """Number of draws in the upper tail: min(S / 5, 3 sqrt(S)), rounded up."""
    return math.ceil(min(num_samples / 5, 3 * math.sqrt(num_samples)))


class WeightSums(NamedTuple):
    """Mergeable sums of log-weights: three numbers per datum, and the largest weights, which k-hat needs."""

    num_samples: int
    log_sum: Tensor  # log sum_s w_s
    log_sum_squares: Tensor  # log sum_s w_s^2
    total: Tensor  # sum_s log w_s
    largest: Tensor  # [tail + 1, batch], descending

    @classmethod
    def of(cls, log_weights: Tensor, num_samples: int | None = None) -> WeightSums:
        """Sums of log-weights ``[S, batch]``; ``num_samples`` is the final number of draws, S by default."""
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
        """Sums over both sets of draws; the tail is that of ``num_samples`` draws."""
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
    """Sums of log-weights ``[S, batch]``; sums are returned unchanged."""
    return log_weights if isinstance(log_weights, WeightSums) else WeightSums.of(log_weights)


def log_evidence(log_weights: Tensor | WeightSums) -> Tensor:
    r"""Importance-sampling estimate of log p(x) from log-weights ``[S, batch]``, or their sums, in nats.

    .. math:: \log \hat p_S(x) = \log \frac1S \sum_s w_s, \qquad E[\hat p_S(x)] = p(x)

    Returns:
        ``[batch]`` in nats, float64; a lower bound in expectation, of bias about ``-standard_error**2 / 2``.

    References:
        Burda et al., Importance Weighted Autoencoders, 2016. arXiv:1509.00519

    Example:
        >>> log_evidence(torch.tensor([[-7.0], [-7.0]]))
        tensor([-7.], dtype=torch.float64)
    """
    sums = as_sums(log_weights)
    return sums.log_sum - math.log(sums.num_samples)


def elbo(log_weights: Tensor | WeightSums) -> Tensor:
    r"""Evidence lower bound of each datum from log-weights ``[S, batch]``, or their sums, in nats.

    .. math:: \mathrm{ELBO}(x) = E_q[\log p(x, z) - \log q(z \mid x)] \approx \frac1S \sum_s \log w_s

    Returns:
        ``[batch]`` in nats, float64.

    Example:
        >>> elbo(torch.tensor([[1.0], [3.0]]))
        tensor([2.], dtype=torch.float64)
    """
    sums = as_sums(log_weights)
    return sums.total / sums.num_samples


def ess(log_weights: Tensor | WeightSums) -> Tensor:
    r"""Kish's effective sample size of each datum from log-weights ``[S, batch]``, or their sums, in nats.

    .. math:: \mathrm{ESS} = \frac{(\sum_s w_s)^2}{\sum_s w_s^2} \in [1, S]

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
    r"""Monte Carlo standard error of :func:`log_evidence`, by the delta method, from the same log-weights.

    .. math:: \mathrm{SE}^2 = \frac{S}{S - 1} \Big( \frac1{\mathrm{ESS}} - \frac1S \Big)

    It is valid where :func:`pareto_khat` is below 0.5. Above, the weights have infinite variance, and the
    error is too small. It does not see modes that the guide never visits.

    Returns:
        ``[batch]`` in nats; nan for a single draw, and inf where every weight is zero.

    Example:
        >>> standard_error(torch.zeros(4, 1))
        tensor([0.], dtype=torch.float64)
    """
    sums = as_sums(log_weights)
    if sums.num_samples == 1:
        return torch.full_like(sums.log_sum, torch.nan)
    size = sums.num_samples
    return ((1 / ess(sums) - 1 / size) * size / (size - 1)).clamp(min=0).sqrt()


def khat_threshold(num_samples: int) -> float:
    r"""k-hat below which S draws give a reliable mean: min(1 - 1 / log10(S), 0.7).

    References:
        Vehtari et al., Pareto Smoothed Importance Sampling, 2024. arXiv:1507.02646

    Example:
        >>> round(khat_threshold(100), 2), round(khat_threshold(5000), 2)
        (0.5, 0.7)
    """
    return min(1 - 1 / math.log10(num_samples), 0.7) if num_samples > 10 else -math.inf


def pareto_khat(log_weights: Tensor | WeightSums) -> Tensor:
    r"""Shape k of a generalised Pareto distribution fitted to the largest weights of each datum.

    The weights have finite moments up to order 1/k: with k above 0.7 the standard error is unreliable, above
    1 the mean does not exist. A guide that misses a whole mode can have a small k-hat.

    Args:
        log_weights: ``[S, batch]`` log-weights in nats, or their sums.

    Returns:
        ``[batch]``, float64. ``-inf`` where the largest weights, or all but four of them, are equal, as of a
        perfect guide or a discrete latent; ``inf`` where four draws or fewer carry a fifth of all weight;
        ``nan`` for fewer than 25 draws, or where a weight is nan or inf.

    References:
        Vehtari et al., Pareto Smoothed Importance Sampling, 2024. arXiv:1507.02646; Zhang and Stephens, A New
        and Efficient Estimation Method for the Generalized Pareto Distribution, Technometrics, 2009.

    Example:
        >>> u = torch.rand(20_000, 1, generator=torch.Generator().manual_seed(0))
        >>> round(pareto_khat(-0.5 * u.log()).item(), 1)  # w = u ** -k with k = 0.5
        0.5
    """
    return fit_tail(as_sums(log_weights)).khat


class KhatClasses(NamedTuple):
    """Masks of data by their k-hat; a k-hat of nan is in none."""

    reliable: Tensor  # below the threshold
    doubtful: Tensor  # from the threshold to 1
    beyond: Tensor  # above 1, where the weights have no mean and log p(x) is only a lower bound


def classify_khat(khat: Tensor, num_samples: int | Tensor) -> KhatClasses:
    """Whether the k-hat of each datum is reliable, doubtful or beyond 1, by its number of draws.

    Example:
        >>> [mask.tolist() for mask in classify_khat(torch.tensor([0.3, 0.8, 1.2]), 1000)]
        [[True, False, False], [False, True, False], [False, False, True]]
    """
    counts = torch.as_tensor(num_samples).expand(khat.shape)
    thresholds = torch.tensor([khat_threshold(int(count)) for count in counts.flatten()], dtype=khat.dtype)
    threshold = thresholds.reshape(khat.shape).to(khat.device)
    return KhatClasses(khat < threshold, (khat >= threshold) & (khat <= 1), khat > 1)


def khat_labels(thresholds: Sequence[float]) -> dict[str, str]:
    """The name of each class of k-hat with its bounds, by the class.

    Example:
        >>> list(khat_labels([0.5, 0.67]).values())
        ['reliable (below 0.50 to 0.67)', 'doubtful', 'beyond 1']
    """
    least, most = (f"{value:.2f}" for value in (min(thresholds), max(thresholds)))
    below = least if least == most else f"{least} to {most}"
    return {"reliable": f"reliable (below {below})", "doubtful": "doubtful", "beyond": "beyond 1"}


class Tail(NamedTuple):
    """The generalised Pareto distribution of each datum's largest weights, relative to the largest one."""

    khat: Tensor  # [batch]
    scale: Tensor  # nan where nothing was fitted
    cutoff: Tensor  # the weight where the tail begins
    length: Tensor  # draws above the cutoff

    @property
    def fitted(self) -> Tensor:
        """Where a distribution was fitted: ``[batch]``."""
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
