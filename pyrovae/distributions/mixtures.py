"""Mixtures, and a distribution made wider."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyrovae.distributions.wrapping import Shape

__all__ = ["Defensive", "GaussianMixture", "Widened"]


class GaussianMixture(dist.MixtureOfDiagNormals):
    r"""Pyro's mixture of diagonal normals (its draws have pathwise gradients), with its mean.

    .. math:: p(z) = \sum_k \pi_k \, \mathcal N(z; \mu_k, \operatorname{diag} \sigma_k^2)

    Args:
        locs: mu, ``[*batch, components, d]``, d at least 2.
        coord_scale: sigma, likewise, positive.
        component_logits: ``[*batch, components]``, up to a constant.

    References:
        Jankowiak and Karaletsos, Pathwise Derivatives for Multivariate Distributions, 2018.
        arXiv:1806.01856

    Example:
        >>> GaussianMixture(torch.tensor([[0.0, 0.0], [2.0, 4.0]]), torch.ones(2, 2), torch.zeros(2)).mean
        tensor([1., 2.])
    """

    @property
    def mean(self) -> Tensor:
        return (self.probs[..., None] * self.locs).sum(-2)

    @property
    def variance(self) -> Tensor:
        spread = (self.locs - self.mean[..., None, :]).square() + self.coord_scale.square()
        return (self.probs[..., None] * spread).sum(-2)


class Defensive(TorchDistribution):
    r"""A mixture of two distributions of the same events, the second with a small weight.

    .. math:: q'(z) = (1 - \alpha) \, q(z) + \alpha \, r(z)

    Draws carry no gradient (which of the two was drawn is discrete); ELBOs then use the score.

    Args:
        first: q, a Pyro distribution.
        second: r, likewise, of a batch shape that broadcasts to q's.
        weight: alpha, strictly between 0 and 1.
    """

    arg_constraints = {}

    def __init__(self, first: Any, second: Any, weight: float) -> None:
        shape = torch.broadcast_shapes(first.batch_shape, second.batch_shape)
        self.first, self.second, self.weight = first.expand(shape), second.expand(shape), weight
        super().__init__(shape, first.event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        return self.second.support

    @property
    def mean(self) -> Tensor:
        return (1 - self.weight) * self.first.mean + self.weight * self.second.mean

    def expand(self, batch_shape: Shape, _instance: Any = None) -> Defensive:
        return Defensive(self.first.expand(batch_shape), self.second.expand(batch_shape), self.weight)

    @torch.no_grad()
    def sample(self, sample_shape: Shape = ()) -> Tensor:
        first, second = self.first.sample(sample_shape), self.second.sample(sample_shape)
        chosen = torch.rand(first.shape[: first.dim() - len(self.event_shape)], device=first.device)
        chosen = (chosen < self.weight).reshape(*chosen.shape, *[1] * len(self.event_shape))
        return torch.where(chosen, second, first)

    def log_prob(self, value: Tensor) -> Tensor:
        return torch.logaddexp(
            math.log1p(-self.weight) + self.first.log_prob(value),
            math.log(self.weight) + self.second.log_prob(value),
        )


class Widened(TorchDistribution):
    r"""A distribution of real vectors, stretched about its mean.

    .. math:: z' = m + s (z - m), \; z \sim q, \qquad
        q'(z') = s^{-d} \, q(m + (z' - m) / s)

    Args:
        base: q, a Pyro distribution over real vectors with a mean.
        scale: s, positive.
    """

    arg_constraints = {}

    def __init__(self, base: Any, scale: float) -> None:
        self.base, self.scale = base, scale
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        return self.base.has_rsample

    @property
    def support(self) -> Any:
        return self.base.support

    @property
    def mean(self) -> Tensor:
        return self.base.mean

    @property
    def variance(self) -> Tensor:
        return self.scale**2 * self.base.variance

    def expand(self, batch_shape: Shape, _instance: Any = None) -> Widened:
        return Widened(self.base.expand(batch_shape), self.scale)

    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        return self.mean + self.scale * (self.base.rsample(sample_shape) - self.mean)

    def sample(self, sample_shape: Shape = ()) -> Tensor:
        with torch.no_grad():
            return self.mean + self.scale * (self.base.sample(sample_shape) - self.mean)

    def log_prob(self, value: Tensor) -> Tensor:
        inner = self.mean + (value - self.mean) / self.scale
        return self.base.log_prob(inner) - self.event_shape.numel() * math.log(self.scale)
