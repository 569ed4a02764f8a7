"""Torch distributions wrapped for Pyro."""

from __future__ import annotations

from typing import Any

import torch
from pyro.contrib.zuko import ZukoToPyro  # wraps any torch Distribution, and needs no zuko
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions import Distribution

__all__ = ["Shape", "as_pyro", "family_of", "support_of"]

Shape = torch.Size | list[int] | tuple[int, ...]


def as_pyro(distribution: Distribution) -> Any:
    """Wrap a torch distribution for Pyro's handlers; a Pyro distribution is returned unchanged.

    Example:
        >>> import torch
        >>> as_pyro(torch.distributions.Normal(torch.zeros(3), 1.0)).to_event(1).event_shape
        torch.Size([3])
    """
    if isinstance(distribution, TorchDistributionMixin):
        return distribution
    if not isinstance(distribution, Distribution):
        raise TypeError(
            f"a part returned a {type(distribution).__name__}, expected a Distribution: "
            f"wrap a bare network, as in guides.Normal(net)"
        )
    return _AsPyro(distribution)


def family_of(distribution: Any) -> str:
    """The name of a distribution's class, whatever wraps it.

    Example:
        >>> family_of(as_pyro(torch.distributions.Independent(torch.distributions.Normal(0, 1), 0)))
        'Normal'
    """
    if isinstance(distribution, ZukoToPyro):
        return family_of(distribution.dist)
    named = type(distribution).__name__ not in ("Independent", "ExpandedDistribution", "MaskedDistribution")
    return type(distribution).__name__ if named else family_of(distribution.base_dist)


def support_of(distribution: Any) -> torch.distributions.constraints.Constraint | None:
    """The support of a distribution, for a flow the domain of its transform; None if unknown."""
    if isinstance(distribution, ZukoToPyro):
        return support_of(distribution.dist)
    try:
        return distribution.support
    except (NotImplementedError, AttributeError):
        return getattr(getattr(distribution, "transform", None), "domain", None)


class _AsPyro(ZukoToPyro):
    """Pyro's wrapper, with the methods that Predictive, NUTS and autoguides need too."""

    @property
    def support(self) -> Any:
        support = support_of(self.dist)
        if support is None:
            raise NotImplementedError(f"{family_of(self.dist)} does not say what its support is")
        return support

    @property
    def mean(self) -> Tensor:
        return self.dist.mean

    @property
    def variance(self) -> Tensor:
        return self.dist.variance

    def sample(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.dist.sample(*args, **kwargs)

    def rsample(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.dist.rsample(*args, **kwargs)

    def expand(self, *args: Any, **kwargs: Any) -> _AsPyro:
        return _AsPyro(self.dist.expand(*args, **kwargs))
