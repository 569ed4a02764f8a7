"""Distributions on the unit sphere; densities are with respect to its surface area."""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from pyro.distributions import constraints as pyro_constraints
from torch import Tensor
from torch.distributions import Beta, constraints, register_kl

from pyrovae.core.wrap import Shape

__all__ = ["PowerSpherical", "UniformSphere"]


class UniformSphere(TorchDistribution):
    r"""The uniform distribution on the sphere of unit vectors.

    .. math:: p(z) = \frac{\Gamma(d / 2)}{2 \pi^{d / 2}}, \qquad \lVert z \rVert = 1

    Args:
        like: A tensor ``[*batch, d]`` with the dtype and device of the values.

    Example:
        >>> area = 1 / UniformSphere(torch.zeros(3)).log_prob(torch.tensor([0.0, 0.0, 1.0])).exp()
        >>> round(area.item() / math.pi, 4)
        4.0
    """

    arg_constraints = {}
    support = pyro_constraints.sphere
    has_rsample = True

    def __init__(self, like: Tensor) -> None:
        self.like = like
        super().__init__(like.shape[:-1], like.shape[-1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        return torch.zeros_like(self.like)

    def expand(self, batch_shape: Shape, _instance: Any = None) -> UniformSphere:
        return UniformSphere(self.like.expand(*batch_shape, -1))

    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        return _unit(torch.randn(shape, dtype=self.like.dtype, device=self.like.device))

    def log_prob(self, value: Tensor) -> Tensor:
        shape = torch.broadcast_shapes(value.shape, self.like.shape)
        return -_log_area(self.event_shape[0]) * value.new_ones(shape[:-1])


class PowerSpherical(TorchDistribution):
    r"""A distribution about a direction, of any spread, whose draws and constant are in closed form.

    De Cao and Aziz, The Power Spherical Distribution, 2020. arXiv:2006.04437

    .. math:: q(z) = \frac{(1 + \mu^\top z)^\kappa}{2^{\alpha + \beta} \pi^\beta
        \Gamma(\alpha) / \Gamma(\alpha + \beta)}, \qquad
        \alpha = \tfrac{d - 1}{2} + \kappa, \; \beta = \tfrac{d - 1}{2}

    Args:
        loc: mu, unit vectors ``[*batch, d]``, d at least 2.
        concentration: kappa, ``[*batch]``; 0 is the uniform distribution.

    Example:
        >>> q = PowerSpherical(torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([50.0]))
        >>> q.rsample().shape, q.mean
        (torch.Size([1, 3]), tensor([[0.9615, 0.0000, 0.0000]]))
    """

    arg_constraints = {
        "loc": pyro_constraints.sphere,
        "concentration": constraints.nonnegative,
    }
    support = pyro_constraints.sphere
    has_rsample = True

    def __init__(self, loc: Tensor, concentration: Tensor, validate_args: bool | None = False) -> None:
        self.loc, self.concentration = loc, concentration
        self.beta = (loc.shape[-1] - 1) / 2
        self.alpha = self.beta + concentration
        super().__init__(concentration.shape, loc.shape[-1:], validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        along = (self.alpha - self.beta) / (self.alpha + self.beta)
        return along[..., None] * self.loc

    def expand(self, batch_shape: Shape, _instance: Any = None) -> PowerSpherical:
        return PowerSpherical(self.loc.expand(*batch_shape, -1), self.concentration.expand(batch_shape))

    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        part = Beta(self.alpha, torch.full_like(self.alpha, self.beta), validate_args=False).rsample(
            sample_shape
        )[..., None]
        tiny = torch.finfo(part.dtype).tiny
        across = 2 * (part * (1 - part)).clamp(min=tiny).sqrt()
        other = _unit(torch.randn((*part.shape[:-1], self.loc.shape[-1] - 1)).to(part))
        # Mirror the pole away from loc onto loc: the mirror of a near pole changes much with each small move.
        side = torch.where(self.loc[..., :1] > 0, -1.0, 1.0).to(part)
        around_pole = torch.cat([side * (2 * part - 1), across * other], -1)
        pole = torch.cat([side, torch.zeros_like(self.loc[..., 1:])], -1)
        mirror = _unit(pole - self.loc)
        return around_pole - 2 * (mirror * around_pole).sum(-1, keepdim=True) * mirror

    def log_prob(self, value: Tensor) -> Tensor:
        cosine = (self.loc * value).sum(-1).clamp(min=-1 + torch.finfo(value.dtype).eps)
        return self.concentration * torch.log1p((cosine - 1) / 2) - self._log_constant().to(value)

    def entropy(self) -> Tensor:
        alpha = self.alpha.double()
        log_height = alpha.digamma() - (alpha + self.beta).digamma()
        return (self._log_constant() - self.concentration * log_height).to(self.alpha)

    def _log_constant(self) -> Tensor:
        """The constant of ((1 + cosine) / 2)^kappa in float64: float32 is off by 0.01 at kappa = 1e4."""
        alpha = self.alpha.double()
        return self.beta * math.log(4 * math.pi) + alpha.lgamma() - (alpha + self.beta).lgamma()


def _log_area(width: int) -> float:
    """Log area of the sphere of unit vectors of this width."""
    return math.log(2) + width / 2 * math.log(math.pi) - math.lgamma(width / 2)


def _unit(vector: Tensor) -> Tensor:
    return vector / vector.norm(dim=-1, keepdim=True)


@register_kl(PowerSpherical, UniformSphere)
def _kl_power_uniform(p: PowerSpherical, q: UniformSphere) -> Tensor:
    return _log_area(q.event_shape[0]) - p.entropy()
