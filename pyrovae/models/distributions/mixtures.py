"""Mixtures, and a wider distribution."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from pyrovae.core.wrap import Shape

__all__ = ["Defensive", "GaussianMixture", "Widened"]


class GaussianMixture(dist.MixtureOfDiagNormals):
    r"""Pyro's MixtureOfDiagNormals with a mean and a variance, and with other draws.

    .. math:: p(z) = \sum_k \pi_k \, \mathcal N(z; \mu_k, \operatorname{diag} \sigma_k^2)

    Draws have pathwise gradients. The gradient of the weights has more noise the further apart components
    are, and is lost between components that do not overlap. Pyro's draws mix the rows of a batch where a
    sample shape is given; their gradient is wrong for the weights unless scales are 1, and NaN in 64 dims.

    Args:
        locs: mu, ``[*batch, components, d]``, d at least 2.
        coord_scale: sigma, ``[*batch, components, d]``, positive.
        component_logits: ``[*batch, components]``, up to a constant.

    References:
        Jankowiak and Karaletsos, Pathwise Derivatives for Multivariate Distributions, 2018, for locs
        and scales. arXiv:1806.01856; Figurnov et al., Implicit Reparameterization Gradients, 2018, for
        the weights. arXiv:1805.08498

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

    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        drawn = self.expand(self._extended_shape(sample_shape)[:-1])
        return _MixtureDraw.apply(drawn.locs, drawn.coord_scale, drawn.component_logits)


class _MixtureDraw(Function):
    """A draw of a mixture, ``[*batch, d]``, with all three parameters in the draw's shape.

    The derivative by a component's loc or scale is that of a draw of the component, times the component's
    posterior probability. The derivative by the weights keeps the quantile of each coordinate, given the
    coordinates before it.
    """

    @staticmethod
    def forward(ctx: Any, locs: Tensor, scales: Tensor, logits: Tensor) -> Tensor:
        which = torch.distributions.Categorical(logits=logits, validate_args=False).sample()
        which = which[..., None, None].expand(*locs.shape[:-2], 1, locs.shape[-1])
        loc, scale = (each.gather(-2, which)[..., 0, :] for each in (locs, scales))
        z = loc + scale * torch.randn_like(loc)
        ctx.save_for_backward(z, locs, scales, logits)
        return z

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z, locs, scales, logits = ctx.saved_tensors
        away = (z[..., None, :] - locs) / scales
        log_densities = -away.square() / 2 - scales.log() - math.log(2 * math.pi) / 2
        of_locs = (logits + log_densities.sum(-1)).softmax(-1)[..., None] * gradient[..., None, :]
        below, tiny = torch.special.ndtr(away), torch.finfo(z.dtype).tiny
        of_logits = torch.zeros_like(logits)
        # Derivatives by the k-th logit of each component's log weight given the coordinates before.
        slopes = torch.eye(logits.shape[-1], dtype=z.dtype, device=z.device)
        for i in range(z.shape[-1]):
            weights = logits.softmax(-1)
            density = (weights * log_densities[..., i].exp()).sum(-1, keepdim=True).clamp(min=tiny)
            weights = weights[..., None]
            changes = weights * (slopes - (weights * slopes).sum(-2, keepdim=True))
            moves = -(changes * below[..., i, None]).sum(-2) / density
            of_logits = of_logits + gradient[..., i, None] * moves
            slopes = slopes - (away / scales)[..., i, None] * moves[..., None, :]
            logits = logits + log_densities[..., i]
        return of_locs, of_locs * away, of_logits


class Defensive(TorchDistribution):
    r"""A mixture of two distributions of the same events, the second with a small weight.

    .. math:: q'(z) = (1 - \alpha) \, q(z) + \alpha \, r(z)

    Draws have no gradient, as the choice between the two is discrete; ELBOs then use the score function.

    Args:
        first: q, a Pyro distribution.
        second: r, a Pyro distribution whose batch shape broadcasts to q's.
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
