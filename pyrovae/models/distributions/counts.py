"""Distributions of counts, with log densities in float64: log gammas are large and cancel in float32."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Multinomial, constraints

from pyrovae.core.wrap import Shape
from pyrovae.models.base import in_float64

__all__ = ["Binomial", "NegativeBinomial", "Poisson", "Words", "ZeroInflatedNegativeBinomial"]


class Binomial(dist.Binomial):
    r"""Pyro's Binomial, with its log density evaluated in float64.

    .. math:: p(x) = \binom nx \sigma(l)^x \sigma(-l)^{n - x}

    In float32 the log density of 784 counts up to 255 is too large, or too small, by 0.04 nats.

    Args:
        total_count: n.
        logits: l.

    Example:
        >>> Binomial(torch.tensor(2.0), logits=torch.zeros(())).log_prob(torch.tensor(1.0)).exp()
        tensor(0.5000)
    """

    def log_prob(self, value: Tensor) -> Tensor:
        exact = in_float64(dist.Binomial, total_count=self.total_count, logits=self.logits)
        return exact.log_prob(value.double()).to(self.logits)


class Poisson(dist.Poisson):
    r"""Pyro's Poisson, given its log rate, with its log density evaluated in float64.

    .. math:: p(x) = \frac{\lambda^x e^{-\lambda}}{x!}

    Args:
        log_rate: log lambda.

    Example:
        >>> Poisson(torch.tensor(-200.0)).log_prob(torch.tensor([1.0, 2.0]))
        tensor([-200.0000, -400.6931])
    """

    def __init__(self, log_rate: Tensor) -> None:
        self.log_rate = log_rate
        super().__init__(log_rate.exp(), validate_args=False)

    def expand(self, batch_shape: Shape, _instance: Any = None) -> Poisson:
        return Poisson(self.log_rate.expand(batch_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        log_rate, x = self.log_rate.double(), value.double()
        return (x * log_rate - log_rate.exp() - (x + 1).lgamma()).to(self.log_rate)


class NegativeBinomial(dist.NegativeBinomial):
    r"""Pyro's NegativeBinomial, with its log density evaluated in float64.

    .. math:: p(x) = \frac{\Gamma(x + r)}{x! \, \Gamma(r)} \sigma(-l)^r \sigma(l)^x

    In float32 it is off by 0.1 nats a feature at r = 1e5 and by several at 1e7, where probabilities exceed 1
    and a learned dispersion would exploit that.

    Args:
        total_count: r.
        logits: l, log mean minus log r.

    Example:
        >>> import torch
        >>> NegativeBinomial(1e7, logits=torch.tensor(-16.0)).log_prob(torch.tensor(2.0)).exp() < 1
        tensor(True)
    """

    def log_prob(self, value: Tensor) -> Tensor:
        exact = in_float64(dist.NegativeBinomial, total_count=self.total_count, logits=self.logits)
        return exact.log_prob(value.double()).to(self.logits)


class ZeroInflatedNegativeBinomial(dist.ZeroInflatedNegativeBinomial):
    """Pyro's ZeroInflatedNegativeBinomial with a :class:`NegativeBinomial` as its base.

    Args:
        total_count: r.
        logits: l, log mean minus log r.
        gate_logits: Logits of the probability that a count is lost and reads zero.
    """

    def __init__(self, total_count: Tensor, *, logits: Tensor, gate_logits: Tensor, **keywords: Any) -> None:
        base = NegativeBinomial(total_count, logits=logits, validate_args=False)
        dist.ZeroInflatedDistribution.__init__(self, base, gate_logits=gate_logits, **keywords)


class Words(dist.TorchDistribution):
    r"""Multinomial counts given their total, which may differ between rows.

    .. math:: p(x \mid n) = \frac{n!}{\prod_i x_i!} \prod_i \pi_i^{x_i}, \qquad n = \sum_i x_i

    torch's Multinomial has one total for the whole batch in its support.

    Args:
        logits: ``[*batch, vocabulary]``, up to a constant.
        total_count: Words in a draw.

    Example:
        >>> Words(torch.zeros(2, 3)).log_prob(torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])).exp()
        tensor([0.3333, 0.2222])
    """

    arg_constraints = {"logits": constraints.real_vector}
    support = constraints.independent(constraints.nonnegative_integer, 1)

    def __init__(self, logits: Tensor, total_count: int = 1, validate_args: bool | None = False) -> None:
        self.logits = logits.log_softmax(-1)
        self.total_count = total_count
        super().__init__(logits.shape[:-1], logits.shape[-1:], validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        return self.total_count * self.logits.exp()

    def expand(self, batch_shape: Shape, _instance: Any = None) -> Words:
        return Words(self.logits.expand(*batch_shape, -1), self.total_count)

    def sample(self, sample_shape: Shape = ()) -> Tensor:
        counts = Multinomial(self.total_count, logits=self.logits, validate_args=False)
        return counts.sample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        x, logits = value.double(), self.logits.double().log_softmax(-1)
        # 0 * -inf is 0 here: a word of probability zero that does not occur.
        chosen = torch.where(x > 0, x * logits, torch.zeros_like(x)).sum(-1)
        return ((x.sum(-1) + 1).lgamma() - (x + 1).lgamma().sum(-1) + chosen).to(self.logits)
