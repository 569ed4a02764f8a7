"""Vectors of bits, with the log density summed in the cheapest exact form."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn.functional import softplus

from pyrovae.core.context import captured
from pyrovae.core.wrap import Shape

__all__ = ["Bernoulli"]

LANES = 16
"""Width of a processor's vectors, or a multiple of it."""

MOST, LEAST = 64, 8
"""Bounds on the factors of a product. Each lies in [1, 2], so 64 of them stay within a float's range."""


class Bernoulli(dist.Independent):
    r"""Independent bits given their logits: ``Bernoulli(logits=...).to_event(1)`` at half the cost.

    .. math:: \log p(x) = \sum_i x_i l_i - \sum_i \log(1 + e^{l_i}), \qquad
        \sum_i \log(1 + e^{l_i}) = \sum_i \max(l_i, 0) + \sum_g \log \prod_{i \in g} (1 + e^{-|l_i|})

    The first sum is a matrix product. The second, within a compiled graph, takes one logarithm of a product
    of up to 64 factors instead of 64 logarithms; its gradient is :math:`x - \sigma(l)` in either form.

    Args:
        logits: ``[*batch, d]``.

    Example:
        >>> p = Bernoulli(torch.zeros(5, 784))
        >>> p.event_shape, torch.allclose(p.log_prob(torch.ones(784)), 784 * torch.tensor(0.5).log())
        (torch.Size([784]), True)
    """

    def __init__(self, logits: Tensor) -> None:
        super().__init__(dist.Bernoulli(logits=logits, validate_args=False), 1, validate_args=False)

    def expand(self, batch_shape: Shape, _instance: Any = None) -> Bernoulli:
        return Bernoulli(self.base_dist.logits.expand(*batch_shape, self.event_shape[0]))

    def log_prob(self, value: Tensor) -> Tensor:
        logits = self.base_dist.logits
        if captured.get():
            return _Fused.apply(logits, value.to(logits))
        return torch.einsum("...i,...i->...", logits, value.to(logits)) - softplus(logits).sum(-1)


class _Fused(Function):
    """The log density as one loop over the logits, which stay in the cache, and its gradients."""

    generate_vmap_rule = True

    @staticmethod
    def forward(logits: Tensor, value: Tensor) -> Tensor:
        shape = torch.broadcast_shapes(logits.shape, value.shape)
        logits, value = (each.expand(shape).reshape(-1, shape[-1]) for each in (logits, value))  # one loop
        linear, factors = value * logits - logits.clamp(min=0), (-logits.abs()).exp()
        size = 1 if logits.is_cuda else _factors(shape[-1])  # a GPU waits for memory, not for logarithms
        if size == 1:
            total = (linear - factors.log1p()).sum(-1)
        else:
            linear, factors = (each.unflatten(-1, (size, -1)) for each in (linear, 1 + factors))
            total = (linear.sum(-2) - factors.prod(-2).log()).sum(-1)
        return total.reshape(shape[:-1])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> Any:
        logits, value = ctx.saved_tensors
        outer = outer[..., None]
        by_logits = (outer * (value - logits.sigmoid())).sum_to_size(logits.shape)
        by_value = (outer * logits).sum_to_size(value.shape) if ctx.needs_input_grad[1] else None
        return by_logits, by_value


def _factors(width: int) -> int:
    """Factors per product, chosen so that the products fill whole vectors if possible."""
    sizes = [n for n in range(MOST, LEAST - 1, -1) if width % n == 0]
    return next((n for n in sizes if width // n % LANES == 0), sizes[0] if sizes else 1)
