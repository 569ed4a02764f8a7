"""Priors over bounded vectors: proportions, such as topics, and directions."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae.core.checks import check_positive
from pyrovae.models import distributions
from pyrovae.models.base import check_at_least_two

__all__ = ["Dirichlet", "LogisticNormal", "UniformSphere"]


class Dirichlet(nn.Module):
    r"""Proportions that add up to one.

    .. math:: p(z) \propto \prod_{i=1}^d z_i^{\alpha - 1}

    Args:
        dim: Width of z, at least 2.
        concentration: alpha. Below 1 a few proportions are large, above 1 all are similar.

    References:
        Blei et al., Latent Dirichlet Allocation, 2003, https://www.jmlr.org/papers/v3/blei03a.html; Joo et
        al., Dirichlet Variational Autoencoder, 2019. arXiv:1901.02739

    Example:
        >>> Dirichlet(3)().mean
        tensor([0.3333, 0.3333, 0.3333])
    """

    concentration: Tensor

    def __init__(self, dim: int, *, concentration: float = 1.0) -> None:
        super().__init__()
        check_at_least_two("priors.Dirichlet: dim", dim)
        check_positive("priors.Dirichlet: concentration", concentration)
        self.register_buffer("concentration", torch.full((dim,), float(concentration)), persistent=False)

    def forward(self) -> dist.TorchDistribution:
        """The distribution of one z, event shape ``[dim]``."""
        return distributions.Dirichlet(self.concentration, validate_args=False)


class LogisticNormal(nn.Module):
    r"""Proportions made of a normal vector by breaking a stick; loc and scale are learned.

    .. math:: z = \mathrm{stick}(u), \quad u \sim \mathcal N(\mu, \operatorname{diag} \sigma^2), \qquad
        z_i = \sigma(u_i - \log(d - i)) \prod_{j < i} (1 - \sigma(u_j - \log(d - j)))

    Loc starts at 0 and scale at 1, about the uniform proportions.

    Args:
        dim: Width of z, at least 2; u is narrower by one.

    References:
        Aitchison and Shen, Logistic-Normal Distributions, 1980. doi:10.1093/biomet/67.2.261

    Example:
        >>> LogisticNormal(3)().sample().shape
        torch.Size([3])
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        check_at_least_two("priors.LogisticNormal: dim", dim)
        self.loc = nn.Parameter(torch.zeros(dim - 1))
        self.log_scale = nn.Parameter(torch.zeros(dim - 1))

    def forward(self) -> dist.TorchDistribution:
        """The distribution of one z, event shape ``[dim]``."""
        return distributions.LogisticNormal(self.loc, self.log_scale.exp())


class UniformSphere(nn.Module):
    r"""The uniform distribution over unit vectors; :class:`pyrovae.guides.PowerSpherical` fits it.

    .. math:: p(z) = \frac{\Gamma(d / 2)}{2 \pi^{d / 2}}, \qquad \lVert z \rVert = 1

    Args:
        dim: Width of z, at least 2; the sphere has one dimension less.

    References:
        Davidson et al., Hyperspherical Variational Auto-Encoders, 2018. arXiv:1804.00891

    Example:
        >>> round(UniformSphere(3)().sample().norm().item(), 4)
        1.0
    """

    like: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        check_at_least_two("priors.UniformSphere: dim", dim)
        self.register_buffer("like", torch.zeros(dim), persistent=False)

    def forward(self) -> dist.TorchDistribution:
        """The distribution of one z, event shape ``[dim]``."""
        return distributions.UniformSphere(self.like)
