"""Distributions of proportions, accurate however small a part is."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import StickBreakingTransform, constraints, kl_divergence, register_kl
from torch.nn.functional import logsigmoid, pad

from pyrovae.core.wrap import Shape
from pyrovae.models.base import in_float64

__all__ = ["Dirichlet", "LogisticNormal"]


class Dirichlet(dist.Dirichlet):
    r"""Pyro's Dirichlet, with log density and KL evaluated in float64: log gammas are large and cancel.

    .. math:: p(z) = \frac{\Gamma(\sum_i \alpha_i)}{\prod_i \Gamma(\alpha_i)} \prod_i z_i^{\alpha_i - 1}

    Args:
        concentration: alpha, ``[*batch, d]``.

    Example:
        >>> Dirichlet(torch.ones(3)).log_prob(torch.tensor([0.2, 0.3, 0.5])).exp()
        tensor(2.)
    """

    def log_prob(self, value: Tensor) -> Tensor:
        exact = in_float64(dist.Dirichlet, concentration=self.concentration)
        return exact.log_prob(value.double()).to(self.concentration)


@register_kl(Dirichlet, Dirichlet)
def _kl_dirichlet(p: Dirichlet, q: Dirichlet) -> Tensor:
    a, b = (in_float64(dist.Dirichlet, concentration=each.concentration) for each in (p, q))
    return kl_divergence(a, b).to(p.concentration)


class LogisticNormal(dist.TransformedDistribution):
    r"""Proportions made of a normal vector by breaking a stick.

    .. math:: z_i = \sigma(v_i) \prod_{j < i} (1 - \sigma(v_j)), \quad v_i = u_i - \log(d - i), \quad
        u \sim \mathcal N(\mu, \operatorname{diag} \sigma^2)

    torch's LogisticNormal computes the rest of the stick as 1 minus the parts before: once a few parts have
    nearly all, its log density in float32 is off by hundreds of nats.

    Args:
        loc: mu, ``[*batch, d - 1]``.
        scale: sigma, ``[*batch, d - 1]``, positive.

    Example:
        >>> p = LogisticNormal(torch.zeros(2), torch.ones(2))
        >>> p.log_prob(torch.tensor([1.0, 1e-12, 1e-12])).isfinite()
        tensor(True)
    """

    arg_constraints = {
        "loc": constraints.real_vector,
        "scale": constraints.independent(constraints.positive, 1),
    }
    support = constraints.simplex

    def __init__(self, loc: Tensor, scale: Tensor, validate_args: bool | None = False) -> None:
        self.loc, self.scale = loc, scale
        base = dist.Normal(loc, scale, validate_args=False)
        super().__init__(base, [_Stick()], validate_args=validate_args)

    def expand(self, batch_shape: Shape, _instance: Any = None) -> LogisticNormal:
        return LogisticNormal(self.loc.expand(*batch_shape, -1), self.scale.expand(*batch_shape, -1))


class _Stick(StickBreakingTransform):
    """torch's transform, in logs, and with the rest of the stick summed from its end."""

    def _call(self, x: Tensor) -> Tensor:
        v = x - self._offset(x)
        logs = pad(logsigmoid(v), (0, 1)) + pad(logsigmoid(-v).cumsum(-1), (1, 0))
        return logs.clamp(min=math.log(torch.finfo(x.dtype).tiny)).exp()

    def _inverse(self, y: Tensor) -> Tensor:
        left = y.flip(-1).cumsum(-1).flip(-1)[..., 1:]
        v = y[..., :-1].log() - left.log()
        return v + self._offset(v)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return (y[..., :-1].log() + logsigmoid(self._offset(x) - x)).sum(-1)

    @staticmethod
    def _offset(x: Tensor) -> Tensor:
        return torch.arange(x.shape[-1], 0, -1, dtype=x.dtype, device=x.device).log()
