"""Densities of real values that torch has, and that lose their digits there in float32."""

from __future__ import annotations

import math

import pyro.distributions as dist
from torch import Tensor
from torch.distributions import LowRankMultivariateNormal

__all__ = ["LowRankNormal", "StudentT"]


class StudentT(dist.StudentT):
    r"""Pyro's, with its constant taken in float64.

    .. math:: p(x) = \frac{\Gamma(\frac{\nu + 1}2)}{\Gamma(\frac\nu2) \sqrt{\pi \nu} s}
        \Big(1 + \frac{(x - m)^2}{\nu s^2}\Big)^{-\frac{\nu + 1}2}

    In float32 784 values are off by 0.09 nats at nu = 1e3, and by 2.8 at 1e5.

    Args:
        df: nu.
        loc: m.
        scale: s.

    Example:
        >>> import torch
        >>> StudentT(torch.tensor(1e7), 0.0, 1.0).log_prob(torch.zeros(()))  # all but a normal
        tensor(-0.9189)
    """

    def log_prob(self, value: Tensor) -> Tensor:
        df = self.df.double()
        constant = ((df + 1) / 2).lgamma() - (df / 2).lgamma() - 0.5 * (math.pi * df).log()
        square = ((value - self.loc) / self.scale).square()
        return constant.to(square) - self.scale.log() - (self.df + 1) / 2 * (square / self.df).log1p()


class LowRankNormal(dist.LowRankMultivariateNormal):
    """Pyro's, with its log density taken in float64: the quadratic form is a small difference.

    Args:
        loc: ``[*batch, d]``.
        cov_factor: ``[*batch, d, rank]``.
        cov_diag: ``[*batch, d]``.

    Example:
        >>> import torch
        >>> LowRankNormal(torch.zeros(2), torch.zeros(2, 1), torch.ones(2)).log_prob(torch.zeros(2))
        tensor(-1.8379)
    """

    def log_prob(self, value: Tensor) -> Tensor:
        factor, diagonal = self._unbroadcasted_cov_factor, self._unbroadcasted_cov_diag
        exact = LowRankMultivariateNormal(
            self.loc.double(), factor.double(), diagonal.double(), validate_args=False
        )
        return exact.log_prob(value.double()).to(self.loc)
