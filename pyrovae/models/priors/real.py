"""Priors over real vectors: normals, heavier tails, and a normal given a condition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae.core.checks import check_count, check_positive
from pyrovae.models import distributions
from pyrovae.models.base import NetPart, Scale, loc_and_scale, register_value

__all__ = ["ConditionalNormal", "Laplace", "Normal", "StandardNormal", "StudentT"]


class _Independent(nn.Module):
    """Independent variables of one family, whose parameters, in the family's order, are fixed numbers."""

    def __init__(self, dim: int, family: Callable[..., Any], **parameters: float) -> None:
        super().__init__()
        check_count(f"priors.{type(self).__name__}: dim", dim)
        self._family, self._names = family, tuple(parameters)
        for name, value in parameters.items():
            if name != "loc":
                check_positive(f"priors.{type(self).__name__}: {name}", value)
            self.register_buffer(name, torch.full((dim,), float(value)), persistent=False)

    def forward(self) -> dist.TorchDistribution:
        """The distribution of one z, event shape ``[dim]``."""
        values = (getattr(self, name) for name in self._names)
        return self._family(*values, validate_args=False).to_event(1)


class StandardNormal(_Independent):
    r"""A standard normal, the prior of the first VAE.

    .. math:: p(z) = \mathcal N(z; 0, I)

    Args:
        dim: Width of z.

    References:
        Kingma and Welling, Auto-Encoding Variational Bayes, 2014. arXiv:1312.6114

    Example:
        >>> StandardNormal(16)().event_shape
        torch.Size([16])
    """

    def __init__(self, dim: int) -> None:
        super().__init__(dim, dist.Normal, loc=0.0, scale=1.0)


class Normal(nn.Module):
    r"""A diagonal normal with learned loc and scale.

    .. math:: p(z) = \mathcal N(z; \mu, \operatorname{diag} \sigma^2)

    With a decoder whose first layer is linear it is no richer than N(0, I); it is useful where the scale of z
    has a meaning, and as a component of richer priors.

    Args:
        dim: Width of z.
        scale: Initial scale; loc starts at 0.
        learn: Whether loc and scale are learned.

    Raises:
        ValueError: The width is below 1, or the scale is not positive.

    References:
        Hoffman and Johnson, ELBO Surgery, 2016, for the cost of the prior's shape,
        http://approximateinference.org/accepted/HoffmanJohnson2016.pdf; Kingma and Welling, An Introduction
        to Variational Autoencoders, 2019. arXiv:1906.02691

    Example:
        >>> Normal(16)().mean.sum()
        tensor(0., grad_fn=<SumBackward0>)
    """

    loc: Tensor

    def __init__(self, dim: int, *, scale: float = 1.0, learn: bool = True) -> None:
        super().__init__()
        check_count("priors.Normal: dim", dim)
        register_value(self, "loc", torch.zeros(dim), learn=learn)
        self.scale = Scale("priors.Normal", torch.full((dim,), scale), learn=learn)

    def forward(self) -> dist.TorchDistribution:
        """The distribution of one z, event shape ``[dim]``."""
        return dist.Normal(self.loc, self.scale(), validate_args=False).to_event(1)


class Laplace(_Independent):
    r"""Independent Laplace variables: a peak at zero and heavier tails, for sparse codes.

    .. math:: p(z) = \prod_i \frac{1}{2 b} e^{-|z_i| / b}

    Args:
        dim: Width of z.
        scale: b; the default gives unit variance.

    References:
        Barello et al., Sparse-Coding Variational Auto-Encoders, 2018. doi:10.1101/399246

    Example:
        >>> Laplace(16)().variance[0]
        tensor(1.0000)
    """

    def __init__(self, dim: int, *, scale: float = 0.5**0.5) -> None:
        super().__init__(dim, dist.Laplace, loc=0.0, scale=scale)


class StudentT(_Independent):
    r"""Independent Student's t variables, with polynomial tails: distant codes cost little.

    .. math:: p(z) = \prod_i \mathrm{t}_\nu(z_i / s) / s

    Args:
        dim: Width of z.
        df: Degrees of freedom, nu.
        scale: s.

    References:
        Mathieu et al., Disentangling Disentanglement in VAEs, 2019. arXiv:1812.02833

    Example:
        >>> StudentT(16, df=5)().event_shape
        torch.Size([16])
    """

    def __init__(self, dim: int, *, df: float = 5.0, scale: float = 1.0) -> None:
        super().__init__(dim, distributions.StudentT, df=df, loc=0.0, scale=scale)


class ConditionalNormal(NetPart):
    r"""A normal whose loc and scale a network computes from a condition y, such as a class.

    .. math:: p(z \mid y) = \mathcal N(z; \mu(y), \operatorname{diag} \sigma^2(y)), \qquad
        (\mu, \log \sigma^2) = \mathrm{net}(y)

    Args:
        net: Maps ``[..., width of y]`` to ``[..., 2 * dim]``: loc, then log variance.

    References:
        Sohn et al., Learning Structured Output Representation using Deep Conditional Generative Models, 2015.

    Example:
        >>> ConditionalNormal(nn.Linear(10, 2 * 16))(torch.eye(10)).batch_shape
        torch.Size([10])
    """

    def given(self, parameters: Tensor) -> dist.TorchDistribution:
        """The normal whose loc and log variance are ``parameters``, an output of the network."""
        loc, scale = loc_and_scale("priors.ConditionalNormal", parameters)
        return dist.Normal(loc, scale, validate_args=False).to_event(1)
