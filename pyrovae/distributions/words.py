"""Bags of words: counts of which each row has a total of its own."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Multinomial, constraints

from pyrovae.distributions.wrapping import Shape

__all__ = ["Words"]


class Words(TorchDistribution):
    r"""Counts given their total, whatever it is; draws have the total that was named.

    .. math:: p(x \mid n) = \frac{n!}{\prod_i x_i!} \prod_i \pi_i^{x_i}, \qquad n = \sum_i x_i

    torch's Multinomial holds one total for the whole batch to be part of the support.

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
        # 0 * -inf is 0 here: a word of probability nought that does not occur.
        chosen = torch.where(x > 0, x * logits, torch.zeros_like(x)).sum(-1)
        return ((x.sum(-1) + 1).lgamma() - (x + 1).lgamma().sum(-1) + chosen).to(self.logits)
