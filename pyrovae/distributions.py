"""Distributions, and only what torch, Pyro and zuko lack."""

from __future__ import annotations

from typing import Any

from pyro.contrib.zuko import ZukoToPyro  # wraps any torch Distribution, and needs no zuko
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions import Distribution

__all__ = ["as_pyro"]


def as_pyro(distribution: Distribution) -> Any:
    """The distribution as Pyro's handlers want it; one that is Pyro's own is handed back.

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


class _AsPyro(ZukoToPyro):
    """Pyro's wrapper, with what Predictive, NUTS and autoguides ask of a distribution besides."""

    @property
    def support(self) -> Any:
        return self.dist.support

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
