"""Guides over vectors with bounds: positive ones, proportions and directions."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor, nn
from torch.nn.functional import normalize, softplus

from pyrovae.models import distributions
from pyrovae.models.base import NetGuide, check_at_least_two, cut, loc_and_scale

__all__ = ["Dirichlet", "LogNormal", "LogisticNormal", "PowerSpherical"]


class LogNormal(NetGuide):
    r"""Positive latents, such as rates: the exponential of a diagonal normal.

    .. math:: \log z \mid x \sim \mathcal N(\mu(x), \operatorname{diag} \sigma^2(x)), \qquad
        (\mu, \log \sigma^2) = \mathrm{net}(x)

    Args:
        net: Maps ``[..., *event]`` to ``[..., 2 * dim]``: loc, then log variance, of log z.

    References:
        Kucukelbir et al., Automatic Differentiation Variational Inference, 2017. arXiv:1603.00788

    Example:
        >>> import torch
        >>> LogNormal(nn.Linear(784, 2 * 16))(torch.rand(32, 784)).event_shape
        torch.Size([16])
    """

    @staticmethod
    def net_width(dim: int) -> int:
        return 2 * dim

    def given(self, parameters: Tensor) -> dist.TorchDistribution:
        loc, scale = loc_and_scale("guides.LogNormal", parameters)
        return dist.LogNormal(loc, scale, validate_args=False).to_event(1)


class Dirichlet(NetGuide):
    r"""Proportions; draws have implicit gradients.

    .. math:: q(z \mid x) = \mathrm{Dirichlet}(z; \alpha(x)), \qquad \log \alpha = \mathrm{net}(x)

    Args:
        net: Maps ``[..., *event]`` to log concentrations, ``[..., dim]``.

    References:
        Figurnov et al., Implicit Reparameterization Gradients, 2018. arXiv:1805.08498

    Example:
        >>> import torch
        >>> Dirichlet(nn.Linear(784, 16))(torch.rand(32, 784)).event_shape
        torch.Size([16])
    """

    def given(self, parameters: Tensor) -> dist.TorchDistribution:
        return distributions.Dirichlet(parameters.exp(), validate_args=False)


class LogisticNormal(NetGuide):
    r"""Proportions made of a normal vector by breaking a stick.

    .. math:: z = \mathrm{stick}(u), \quad u \mid x \sim \mathcal N(\mu(x), \operatorname{diag}
        \sigma^2(x)), \qquad (\mu, \log \sigma^2) = \mathrm{net}(x)

    See :class:`pyrovae.priors.LogisticNormal` for the stick.

    Args:
        net: Maps ``[..., *event]`` to ``[..., 2 * (dim - 1)]``: loc, then log variance, of u.

    References:
        Aitchison and Shen, Logistic-Normal Distributions, 1980; Srivastava and Sutton, Autoencoding
        Variational Inference for Topic Models, 2017. arXiv:1703.01488

    Example:
        >>> import torch
        >>> LogisticNormal(nn.Linear(784, 2 * 15))(torch.rand(32, 784)).event_shape
        torch.Size([16])
    """

    @staticmethod
    def net_width(dim: int) -> int:
        return 2 * (dim - 1)

    def given(self, parameters: Tensor) -> dist.TorchDistribution:
        return distributions.LogisticNormal(*loc_and_scale("guides.LogisticNormal", parameters))


class PowerSpherical(NetGuide):
    r"""A direction with some spread, for the prior :class:`pyrovae.priors.UniformSphere`.

    .. math:: q(z \mid x) \propto (1 + \mu^\top z)^\kappa, \qquad \mu = m / \lVert m \rVert, \;
        \kappa = \mathrm{softplus}(c), \quad (m, c) = \mathrm{net}(x)

    Args:
        net: Maps ``[..., *event]`` to ``[..., dim + 1]``: m, then c.
        dim: Width of z, at least 2.

    References:
        De Cao and Aziz, The Power Spherical Distribution, 2020. arXiv:2006.04437

    Example:
        >>> import torch
        >>> PowerSpherical(nn.Linear(784, 17), 16)(torch.rand(32, 784)).event_shape
        torch.Size([16])
    """

    def __init__(self, net: nn.Module, dim: int) -> None:
        super().__init__(net)
        check_at_least_two("guides.PowerSpherical: dim", dim)
        self.dim = dim

    @staticmethod
    def net_width(dim: int) -> int:
        return dim + 1

    def given(self, parameters: Tensor) -> dist.TorchDistribution:
        loc, concentration = cut("guides.PowerSpherical", parameters, direction=self.dim, concentration=1)
        return distributions.PowerSpherical(normalize(loc, dim=-1), softplus(concentration[..., 0]))
