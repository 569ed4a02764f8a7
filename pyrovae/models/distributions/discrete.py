"""Vectors of discrete variables as zeros and ones, which Pyro can enumerate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Categorical, constraints, register_kl
from torch.nn.functional import logsigmoid, one_hot

from pyrovae.core.wrap import Shape

__all__ = ["Autoregressive", "Bits", "OneHots"]

MOST_VALUES = 2**16
"""Most values that are enumerated, as more would not fit into memory."""


class _OneHotVectors(constraints.Constraint):
    is_discrete = True
    event_dim = 1

    def __init__(self, num_categories: int) -> None:
        self.num_categories = num_categories

    def check(self, value: Tensor) -> Tensor:
        codes = value.unflatten(-1, (-1, self.num_categories))
        return (((codes == 0) | (codes == 1)).all(-1) & (codes.sum(-1) == 1)).all(-1)


class OneHots(TorchDistribution):
    r"""Independent categorical variables as one-hot vectors, laid side by side.

    .. math:: p(z) = \prod_{i=1}^d \pi_{i, z_i}

    Args:
        logits: ``[*batch, d, num_categories]``, up to a constant for each variable.

    Example:
        >>> codes = OneHots(torch.zeros(5, 2, 3)).sample()
        >>> codes.shape, codes.sum(-1)
        (torch.Size([5, 6]), tensor([2., 2., 2., 2., 2.]))
    """

    arg_constraints = {"logits": constraints.independent(constraints.real, 2)}
    has_enumerate_support = True

    def __init__(self, logits: Tensor, validate_args: bool | None = False) -> None:
        self.logits = logits.log_softmax(-1)
        self.size, self.num_categories = logits.shape[-2:]
        event_shape = torch.Size([self.size * self.num_categories])
        super().__init__(logits.shape[:-2], event_shape, validate_args=validate_args)

    @property
    def support(self) -> Any:
        return _OneHotVectors(self.num_categories)

    @property
    def mean(self) -> Tensor:
        return self.logits.exp().flatten(-2)

    @property
    def variance(self) -> Tensor:
        return self.mean * (1 - self.mean)

    def expand(self, batch_shape: Shape, _instance: Any = None) -> OneHots:
        return OneHots(self.logits.expand(*batch_shape, *self.logits.shape[-2:]))

    def sample(self, sample_shape: Shape = ()) -> Tensor:
        return self._encode(Categorical(logits=self.logits, validate_args=False).sample(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        total = self.by_variable(value).sum(-1)
        return total.masked_fill(~self.support.check(value.detach()), -torch.inf)

    def by_variable(self, value: Tensor) -> Tensor:
        """Log densities of the variables, ``[..., d]``, of values within the support."""
        codes = value.unflatten(-1, (self.size, self.num_categories))
        if value.requires_grad:  # straight through: linear in the value
            return (codes * self.logits.clamp(min=torch.finfo(self.logits.dtype).min)).sum(-1)
        codes, _ = torch.broadcast_tensors(codes.argmax(-1, keepdim=True), self.logits[..., :1])
        return self.logits.expand(*codes.shape[:-1], -1).gather(-1, codes)[..., 0]

    def entropy(self) -> Tensor:
        return -(self.logits.exp() * self.logits).sum((-1, -2))

    def enumerate_support(self, expand: bool = True) -> Tensor:
        codes = _all_vectors(self.size, self.num_categories, self.logits.device)
        return _enumerated(self._encode(codes), self.batch_shape, expand)

    def _encode(self, codes: Tensor) -> Tensor:
        return one_hot(codes, self.num_categories).flatten(-2).to(self.logits.dtype)


class Bits(TorchDistribution):
    r"""Independent binary variables: a Bernoulli vector that can be enumerated.

    .. math:: p(z) = \prod_{i=1}^d \pi_i^{z_i} (1 - \pi_i)^{1 - z_i}

    Args:
        logits: ``[*batch, d]``.

    Example:
        >>> Bits(torch.zeros(5, 3)).enumerate_support(expand=False).shape
        torch.Size([8, 1, 3])
    """

    arg_constraints = {"logits": constraints.real_vector}
    has_enumerate_support = True
    support = constraints.independent(constraints.boolean, 1)

    def __init__(self, logits: Tensor, validate_args: bool | None = False) -> None:
        self.logits = logits
        super().__init__(logits.shape[:-1], logits.shape[-1:], validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        return self.logits.sigmoid()

    @property
    def variance(self) -> Tensor:
        return self.mean * (-self.logits).sigmoid()

    def expand(self, batch_shape: Shape, _instance: Any = None) -> Bits:
        return Bits(self.logits.expand(*batch_shape, -1))

    def sample(self, sample_shape: Shape = ()) -> Tensor:
        return torch.bernoulli(self.mean.detach().expand(self._extended_shape(sample_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        return self.by_variable(value).sum(-1)

    def by_variable(self, value: Tensor) -> Tensor:
        """Log densities of the bits, ``[..., d]``."""
        if value.requires_grad:  # straight through: linear in the value
            return value * logsigmoid(self.logits) + (1 - value) * logsigmoid(-self.logits)
        return logsigmoid((2 * value - 1) * self.logits)

    def entropy(self) -> Tensor:
        return -(self.mean * logsigmoid(self.logits) + (1 - self.mean) * logsigmoid(-self.logits)).sum(-1)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        values = _all_vectors(self.event_shape[0], 2, self.logits.device).to(self.logits.dtype)
        return _enumerated(values, self.batch_shape, expand)


class Autoregressive(TorchDistribution):
    r"""A vector of discrete variables, each given those before it.

    .. math:: p(z) = \prod_{i=1}^d p(z_i \mid z_1, \dots, z_{i-1})

    The density takes one pass of the network, a draw takes d.

    Args:
        logits: Maps values ``[..., width]`` to logits, where those of variable i depend on the variables
            before it alone.
        family: :class:`OneHots` or :class:`Bits`, called with the logits.
        size: Number of variables, d.
        width: Width of the whole vector.
        like: A tensor with the dtype and device of the values.

    Example:
        >>> p = Autoregressive(lambda z: z.roll(1, -1).cumsum(-1) * 0, Bits, 3, 3, torch.zeros(()))
        >>> p.log_prob(torch.ones(3)).exp()
        tensor(0.1250)
    """

    has_enumerate_support = True
    arg_constraints = {}

    def __init__(
        self,
        logits: Callable[[Tensor], Tensor],
        family: Callable[[Tensor], OneHots | Bits],
        size: int,
        width: int,
        like: Tensor,
        batch_shape: torch.Size = torch.Size(),
    ) -> None:
        self.logits, self.family, self.size, self.like = logits, family, size, like
        super().__init__(batch_shape, torch.Size([width]), validate_args=False)

    @property
    def support(self) -> Any:
        return self._given(self._zeros()).support

    def expand(self, batch_shape: Shape, _instance: Any = None) -> Autoregressive:
        width = self.event_shape[0]
        return Autoregressive(self.logits, self.family, self.size, width, self.like, torch.Size(batch_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        shape = torch.broadcast_shapes(value.shape, self.batch_shape + self.event_shape)
        return self._given(value).log_prob(value).expand(shape[:-1])

    @torch.no_grad()
    def sample(self, sample_shape: Shape = ()) -> Tensor:
        value = self._zeros(self._extended_shape(sample_shape))
        for slot in torch.arange(self.event_shape[0], device=self.like.device).chunk(self.size):
            value[..., slot] = self._given(value).sample()[..., slot]
        return value

    def enumerate_support(self, expand: bool = True) -> Tensor:
        values = self._given(self._zeros()).enumerate_support(expand=False)
        return _enumerated(values, self.batch_shape, expand)

    def _given(self, value: Tensor) -> OneHots | Bits:
        return self.family(self.logits(value))

    def _zeros(self, shape: torch.Size | None = None) -> Tensor:
        return self.like.new_zeros(shape or self.event_shape)


def _all_vectors(size: int, num_categories: int, device: torch.device) -> Tensor:
    """Every vector of codes, ``[num_categories ** size, size]``."""
    if num_categories**size > MOST_VALUES:
        raise ValueError(
            f"{num_categories}^{size} values are too many to enumerate: use fewer variables, or sample them "
            f"(Trace_ELBO without config_enumerate)"
        )
    codes = torch.arange(num_categories, device=device)
    return torch.cartesian_prod(*[codes] * size).reshape(-1, size)


def _enumerated(values: Tensor, batch_shape: torch.Size, expand: bool) -> Tensor:
    """Reshape ``[values, width]`` to the layout of enumerate_support."""
    values = values.reshape(len(values), *[1] * len(batch_shape), -1)
    return values.expand(-1, *batch_shape, -1) if expand else values


@register_kl(OneHots, OneHots)
def _kl_one_hots(p: OneHots, q: OneHots) -> Tensor:
    return (p.logits.exp() * (p.logits - q.logits)).sum((-1, -2))


@register_kl(Bits, Bits)
def _kl_bits(p: Bits, q: Bits) -> Tensor:
    on = p.mean * (logsigmoid(p.logits) - logsigmoid(q.logits))
    off = (1 - p.mean) * (logsigmoid(-p.logits) - logsigmoid(-q.logits))
    return (on + off).sum(-1)
