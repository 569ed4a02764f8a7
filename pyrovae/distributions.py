"""Distributions, and only what torch, Pyro and zuko lack."""

from __future__ import annotations

from typing import Any

import torch
from pyro.contrib.zuko import ZukoToPyro  # wraps any torch Distribution, and needs no zuko
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions import Distribution
from torch.distributions.constraints import Constraint

__all__ = ["as_pyro"]


def as_pyro(distribution: Distribution) -> Any:
    """The distribution as Pyro's handlers want it; one that is Pyro's own is handed back.

    Example:
        >>> as_pyro(torch.distributions.Normal(torch.zeros(3), 1.0)).to_event(1).event_shape
        torch.Size([3])
    """
    return distribution if isinstance(distribution, TorchDistributionMixin) else _AsPyro(distribution)


class _AsPyro(ZukoToPyro):
    """Pyro's wrapper, with what Predictive, NUTS and autoguides ask of a distribution besides."""

    @property
    def support(self) -> Constraint:
        return self.dist.support

    @property
    def mean(self) -> Tensor:
        return self.dist.mean

    @property
    def variance(self) -> Tensor:
        return self.dist.variance

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        return self.dist.sample(sample_shape)

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        return self.dist.rsample(sample_shape)

    def expand(self, *args: Any, **kwargs: Any) -> _AsPyro:
        return _AsPyro(self.dist.expand(*args, **kwargs))
