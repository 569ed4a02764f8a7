"""Distributions of grey values: on [0, 1], and on the levels of 8-bit pixels.

References are in the docstrings of the likelihoods.
"""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import logsigmoid, softplus

from pyrovae.core.wrap import Shape
from pyrovae.models.base import in_float64

__all__ = ["ContinuousBernoulli", "DiscretizedLogistic", "Levels", "OpenBeta"]


class ContinuousBernoulli(TorchDistribution):
    r"""The exponential family on [0, 1] with the Bernoulli's exponent.

    .. math:: p(x) = \frac{l}{e^l - 1} e^{l x}, \qquad x \in [0, 1], \; l \in \mathbb R

    Its constant is computed from the logit l: torch's ContinuousBernoulli clamps a probability, and is off
    by 3e-5 nats a pixel near 1/2 in float32, and by more beyond logits of 16.

    Args:
        logits: l, any shape.

    Example:
        >>> ContinuousBernoulli(torch.zeros(())).log_prob(torch.tensor(0.3)).exp()
        tensor(1.)
    """

    arg_constraints = {"logits": constraints.real}
    support = constraints.unit_interval
    has_rsample = True

    def __init__(self, logits: Tensor, validate_args: bool | None = False) -> None:
        self.logits = logits
        super().__init__(logits.shape, validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        r"""``1 / (1 - exp(-l)) - 1 / l``, which is 1/2 at l = 0."""
        near, far = self._apart()
        exact = 1 / (-torch.expm1(-far.abs())) - 1 / far.abs()
        exact = torch.where(far > 0, exact, 1 - exact)
        return torch.where(near, 0.5 + self.logits / 12 - self.logits**3 / 720, exact)

    def expand(self, batch_shape: Shape, _instance: Any = None) -> ContinuousBernoulli:
        return ContinuousBernoulli(self.logits.expand(batch_shape))

    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        u = torch.rand(shape, dtype=self.logits.dtype, device=self.logits.device)
        # The quantile of u is log(1 + u (e^l - 1)) / l; near l = 0 by a series of the Bernoulli's cumulants.
        near, far = self._apart(0.02)
        small = torch.where(near, self.logits, torch.zeros_like(self.logits))
        spread = u * (1 - u)
        series = u + spread * (small / 2 + small**2 / 6 * (1 - 2 * u) + small**3 / 24 * (1 - 6 * spread))
        # This is the quantile for l < 0; the other sign is its mirror image.
        drawn = -torch.log1p(u * torch.expm1(-far.abs())) / far.abs()
        exact = torch.where(far > 0, 1 - drawn, drawn)
        return torch.where(near, series, exact).clamp(0, 1)

    def log_prob(self, value: Tensor) -> Tensor:
        near, far = self._apart()
        half = self.logits / 2
        series = half**2 / 6 - half**4 / 180  # of log(sinh(h) / h)
        size = far.abs()
        exact = size / 2 + torch.log(-torch.expm1(-size) / size)
        return (value - 0.5) * self.logits - torch.where(near, series, exact)

    def _apart(self, limit: float = 0.1) -> tuple[Tensor, Tensor]:
        """Where logits are near 0, and the logits with 1 at those places (for finite gradients)."""
        near = self.logits.abs() < limit
        return near, torch.where(near, torch.ones_like(self.logits), self.logits)


class _OpenUnitInterval(constraints.Constraint):
    event_dim = 0

    def check(self, value: Tensor) -> Tensor:
        return (value > 0) & (value < 1)


class OpenBeta(dist.Beta):
    """The Beta distribution of values strictly inside (0, 1), as its density is 0 or infinite at the ends."""

    support: Any = _OpenUnitInterval()

    def log_prob(self, value: Tensor) -> Tensor:
        concentrations = {"concentration1": self.concentration1, "concentration0": self.concentration0}
        exact = in_float64(dist.Beta, **concentrations)  # log gammas cancel
        return exact.log_prob(value.double()).to(self.concentration1)


class _Grid(constraints.Constraint):
    """The constraint of multiples of ``1 / (levels - 1)`` in [0, 1]."""

    is_discrete = True
    event_dim = 0

    def __init__(self, levels: int) -> None:
        self.levels = levels

    def check(self, value: Tensor) -> Tensor:
        steps = value * (self.levels - 1)
        return (value >= 0) & (value <= 1) & ((steps - steps.round()).abs() < 1e-3)


class Levels(TorchDistribution):
    r"""A probability for each level k / (levels - 1), such as the 256 greys of a pixel.

    .. math:: p(x = \tfrac{k}{L - 1}) = \pi_k, \qquad k = 0, \dots, L - 1

    Args:
        logits: ``[*batch, levels]``, up to a constant.

    Example:
        >>> Levels(torch.zeros(784, 256)).mean[:2]
        tensor([0.5000, 0.5000])
    """

    arg_constraints = {"logits": constraints.real_vector}

    def __init__(self, logits: Tensor, validate_args: bool | None = False) -> None:
        self.logits = logits.log_softmax(-1)
        self.levels = logits.shape[-1]
        super().__init__(logits.shape[:-1], validate_args=validate_args)

    @property
    def support(self) -> Any:
        return _Grid(self.levels)

    @property
    def mean(self) -> Tensor:
        return self.logits.exp() @ _grid(self.levels, self.logits)

    def expand(self, batch_shape: Shape, _instance: Any = None) -> Levels:
        return Levels(self.logits.expand(*batch_shape, -1))

    def sample(self, sample_shape: Shape = ()) -> Tensor:
        drawn = torch.distributions.Categorical(logits=self.logits, validate_args=False).sample(sample_shape)
        return drawn.to(self.logits.dtype) / (self.levels - 1)

    def log_prob(self, value: Tensor) -> Tensor:
        level = (value * (self.levels - 1)).round().long()[..., None]
        level, _ = torch.broadcast_tensors(level, self.logits[..., :1])
        return self.logits.expand(*level.shape[:-1], -1).gather(-1, level)[..., 0]


class DiscretizedLogistic(TorchDistribution):
    r"""A logistic variable rounded to the levels k / (levels - 1); the end bins reach to infinity.

    .. math:: p(x) = \sigma\Big(\frac{x + w/2 - \mu}{s}\Big) - \sigma\Big(\frac{x - w/2 - \mu}{s}\Big),
        \qquad w = \tfrac{1}{L - 1}

    The difference is computed in logs, by :math:`\sigma(b) - \sigma(a) = \sigma(b) \sigma(-a)
    (1 - e^{a - b})`, which is exact in the tails.

    Args:
        loc: mu, ``[*batch]``, on the scale of the data.
        scale: s, ``[*batch]``, on the scale of the data, positive.
        levels: L, 256 for 8-bit values.

    Example:
        >>> p = DiscretizedLogistic(torch.tensor(0.3), torch.tensor(0.1))
        >>> round(p.log_prob(torch.arange(256) / 255).exp().sum().item(), 5)
        1.0
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}

    def __init__(
        self, loc: Tensor, scale: Tensor, levels: int = 256, validate_args: bool | None = False
    ) -> None:
        self.loc, self.scale = torch.broadcast_tensors(loc, scale)
        self.levels = levels
        super().__init__(self.loc.shape, validate_args=validate_args)

    @property
    def support(self) -> Any:
        return _Grid(self.levels)

    @property
    def mean(self) -> Tensor:
        """The mean of the rounded variable: the sum of P(x > edge) over the edges between levels."""
        edges = (_grid(self.levels, self.loc)[1:] + _grid(self.levels, self.loc)[:-1]) / 2
        above = ((self.loc[..., None] - edges) / self.scale[..., None]).sigmoid()
        return above.mean(-1)

    def expand(self, batch_shape: Shape, _instance: Any = None) -> DiscretizedLogistic:
        return DiscretizedLogistic(self.loc.expand(batch_shape), self.scale.expand(batch_shape), self.levels)

    def sample(self, sample_shape: Shape = ()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        u = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device)
        noise = torch.logit(u, eps=torch.finfo(u.dtype).tiny)
        steps = self.levels - 1
        return ((self.loc + self.scale * noise).detach().clamp(0, 1) * steps).round() / steps

    def log_prob(self, value: Tensor) -> Tensor:
        half = 0.5 / (self.levels - 1)
        upper = (value - self.loc + half) / self.scale
        lower = (value - self.loc - half) / self.scale
        width = 2 * half / self.scale
        inside = logsigmoid(upper) + logsigmoid(-lower) + torch.log(-torch.expm1(-width))
        first, last = value < half, value > 1 - half
        return torch.where(first, -softplus(-upper), torch.where(last, -softplus(lower), inside))


def _grid(levels: int, like: Tensor) -> Tensor:
    return torch.arange(levels, dtype=like.dtype, device=like.device) / (levels - 1)
