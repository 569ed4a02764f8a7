"""Discrete vectors whose draws have gradients: relaxed into proportions, or straight through."""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import ComposeTransform, ReshapeTransform, StickBreakingTransform, constraints
from torch.distributions.constraint_registry import biject_to, transform_to
from torch.nn.functional import one_hot

from pyrovae.core.wrap import Shape
from pyrovae.models.distributions.discrete import Bits, OneHots

__all__ = ["RelaxedOneHots", "StraightThroughBits", "StraightThroughOneHots", "check_temperature"]

LEAST = 1e-30
"""Smallest proportion, if the dtype can represent it: the gradient of its logarithm is finite."""

COLDEST = 0.1
"""Lowest temperature: below it many draws would be rounded up to the smallest proportion."""


class _SideBySide(constraints.Constraint):
    """The constraint of vectors of proportions, laid side by side."""

    event_dim = 1

    def __init__(self, size: int, num_categories: int) -> None:
        self.shape = size, num_categories
        self.kind = f"{size} x {num_categories} proportions side by side"

    def check(self, value: Tensor) -> Tensor:
        parts = value.unflatten(-1, self.shape)
        return ((parts >= 0).all(-1) & ((parts.sum(-1) - 1).abs() < 1e-3)).all(-1)


@biject_to.register(_SideBySide)
@transform_to.register(_SideBySide)
def _stick_breaking(support: _SideBySide) -> ComposeTransform:
    size, num_categories = support.shape
    free, values = torch.Size([size, num_categories - 1]), torch.Size([size, num_categories])
    flat = ReshapeTransform(torch.Size([free.numel()]), free)
    return ComposeTransform(
        [flat, StickBreakingTransform(), ReshapeTransform(values, torch.Size([values.numel()]))]
    )


class RelaxedOneHots(TorchDistribution):
    r"""Independent Concrete (Gumbel-softmax) variables, laid side by side: proportions near one-hot.

    .. math:: p(z) = \prod_{i=1}^d (K - 1)! \, \tau^{K - 1} \prod_k \frac{\pi_{ik} z_{ik}^{-\tau - 1}}
        {\sum_l \pi_{il} z_{il}^{-\tau}}

    The density is with respect to each variable's first K - 1 proportions, as for torch's Dirichlet.
    Proportions below 1e-30 are rounded up to it, which is rare at temperatures of 0.1 and more unless logits
    are far apart.

    Args:
        logits: ``[*batch, d, K]``, up to a constant for each variable.
        temperature: tau.

    Example:
        >>> z = RelaxedOneHots(torch.zeros(5, 2, 3), 0.5).rsample()
        >>> z.shape, torch.allclose(z.sum(-1), torch.tensor(2.0))
        (torch.Size([5, 6]), True)
    """

    arg_constraints = {"logits": constraints.independent(constraints.real, 2)}
    has_rsample = True

    def __init__(self, logits: Tensor, temperature: float, validate_args: bool | None = False) -> None:
        self.logits, self.temperature = logits.log_softmax(-1), temperature
        self.size, self.num_categories = logits.shape[-2:]
        event_shape = torch.Size([self.size * self.num_categories])
        super().__init__(logits.shape[:-2], event_shape, validate_args=validate_args)

    @property
    def support(self) -> Any:
        return constraints.simplex if self.size == 1 else _SideBySide(self.size, self.num_categories)

    def expand(self, batch_shape: Shape, _instance: Any = None) -> RelaxedOneHots:
        return RelaxedOneHots(self.logits.expand(*batch_shape, *self.logits.shape[-2:]), self.temperature)

    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        scores = self.logits.expand(*sample_shape, *self.logits.shape)
        least = max(LEAST, torch.finfo(scores.dtype).tiny)
        return _softened(scores + _gumbel(scores), self.temperature).clamp(min=least).flatten(-2)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.by_variable(value).sum(-1)

    def by_variable(self, value: Tensor) -> Tensor:
        """Log densities of the variables, ``[..., d]``."""
        logs, tau = value.unflatten(-1, (self.size, self.num_categories)).log(), self.temperature
        free = self.num_categories - 1
        scores = (self.logits - tau * logs).log_softmax(-1) - logs
        return scores.sum(-1) + math.lgamma(free + 1) + free * math.log(tau)


class _StraightThrough(TorchDistribution):
    """Mixed into a discrete distribution of logits: a temperature, and draws with a gradient."""

    has_rsample = True
    has_enumerate_support = False  # Pyro uses the score function's weights where it enumerates

    def __init__(self, logits: Tensor, temperature: float, validate_args: bool | None = False) -> None:
        super().__init__(logits, validate_args)  # type: ignore[arg-type]
        self.temperature = temperature

    def expand(self, batch_shape: Shape, _instance: Any = None) -> Any:
        of_event = self.logits.shape[len(self.batch_shape) :]
        return type(self)(self.logits.expand(*batch_shape, *of_event), self.temperature)


class StraightThroughOneHots(_StraightThrough, OneHots):
    r"""One-hot vectors side by side whose draws have the gradient of their relaxation.

    .. math:: z_i = \operatorname{onehot} \arg\max_k (\log \pi_{ik} + g_{ik}), \qquad
        \nabla z_i := \nabla \operatorname{softmax} \big((\log \pi_i + g_i) / \tau\big)

    with Gumbel noise g. Draws and density are those of :class:`OneHots`; the gradient is biased. See
    :class:`pyrovae.guides.StraightThrough` for references.

    Args:
        logits: ``[*batch, d, num_categories]``, up to a constant for each variable.
        temperature: tau.

    Example:
        >>> logits = torch.zeros(5, 2, 3, requires_grad=True)
        >>> z = StraightThroughOneHots(logits, 0.5).rsample()
        >>> z.sum(-1).tolist(), z.requires_grad
        ([2.0, 2.0, 2.0, 2.0, 2.0], True)
    """

    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        logits = self.logits.expand(*sample_shape, *self.logits.shape)
        scores = logits + _gumbel(logits)
        hard = one_hot(scores.argmax(-1), self.num_categories).to(logits.dtype)
        return _with_gradient(hard, _softened(scores, self.temperature)).flatten(-2)


class StraightThroughBits(_StraightThrough, Bits):
    r"""Bits whose draws have the gradient of their relaxation.

    .. math:: z_i = 1[l_i + g_i > 0], \qquad \nabla z_i := \nabla \operatorname{sigmoid}
        \big((l_i + g_i) / \tau\big)

    with logistic noise g and logits l. Draws and density are those of :class:`Bits`; the gradient is biased.

    Args:
        logits: ``[*batch, d]``.
        temperature: tau.

    Example:
        >>> StraightThroughBits(torch.full((4,), 9.0), 0.5).rsample()
        tensor([1., 1., 1., 1.])
    """

    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        logits = self.logits.expand(self._extended_shape(sample_shape))
        scores = logits + _gumbel(logits) - _gumbel(logits)  # a difference of two is logistic
        return _with_gradient((scores > 0).to(logits.dtype), (scores / self.temperature).sigmoid())


def check_temperature(owner: str, temperature: float) -> None:
    """Refuse a temperature at which draws have no density in float32."""
    if not temperature >= COLDEST:
        raise ValueError(
            f"{owner}: temperature must be at least {COLDEST}, got {temperature:g}: below it draws round to "
            f"one-hot vectors, for which there is guides.StraightThrough"
        )


def _gumbel(like: Tensor) -> Tensor:
    return -torch.empty_like(like, memory_format=torch.contiguous_format).exponential_().log()


def _softened(scores: Tensor, temperature: float) -> Tensor:
    return (scores / temperature).softmax(-1)


def _with_gradient(hard: Tensor, soft: Tensor) -> Tensor:
    """The values of the first with the gradient of the second."""
    return hard + (soft - soft.detach())
