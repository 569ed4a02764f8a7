"""Priors over discrete codes, vectors of zeros and ones that any network takes."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae.core.checks import check_count
from pyrovae.models.base import check_at_least_two, register_value
from pyrovae.models.distributions import Autoregressive, Bits, OneHots, RelaxedOneHots, check_temperature

__all__ = [
    "AutoregressiveBernoulli",
    "AutoregressiveCategorical",
    "Bernoulli",
    "Categorical",
    "RelaxedCategorical",
]


class Bernoulli(nn.Module):
    r"""Independent bits, with learned probabilities that start at 1/2.

    .. math:: p(z) = \prod_{i=1}^d \pi_i^{z_i} (1 - \pi_i)^{1 - z_i}

    Args:
        dim: Number of bits, d, and the width of z.
        learn: Whether the probabilities are learned.

    References:
        Mnih and Gregor, Neural Variational Inference and Learning in Belief Networks, 2014. arXiv:1402.0030

    Example:
        >>> Bernoulli(3)().log_prob(torch.ones(3)).exp()
        tensor(0.1250, grad_fn=<ExpBackward0>)
    """

    logits: Tensor

    def __init__(self, dim: int, *, learn: bool = True) -> None:
        super().__init__()
        check_count("priors.Bernoulli: dim", dim)
        register_value(self, "logits", torch.zeros(dim), learn=learn, persistent=False)

    def forward(self) -> dist.TorchDistribution:
        """The distribution of one z, event shape ``[dim]``."""
        return Bits(self.logits)


class Categorical(nn.Module):
    r"""Independent categorical variables as one-hot vectors, with learned probabilities.

    .. math:: p(z) = \prod_{i=1}^d \pi_{i, z_i}

    Args:
        num_categories: Number of values of each variable.
        size: Number of variables, d. The width of z is ``size * num_categories``.
        learn: Whether the probabilities, which start equal, are learned.

    References:
        Jang et al., Categorical Reparameterization with Gumbel-Softmax, 2017. arXiv:1611.01144

    Example:
        >>> Categorical(10)().log_prob(torch.eye(10)).exp().sum()
        tensor(1., grad_fn=<SumBackward0>)
    """

    logits: Tensor

    def __init__(self, num_categories: int, *, size: int = 1, learn: bool = True) -> None:
        super().__init__()
        check_count(f"priors.{type(self).__name__}: num_categories", num_categories)
        check_count(f"priors.{type(self).__name__}: size", size)
        logits = torch.zeros(size, num_categories)
        register_value(self, "logits", logits, learn=learn, persistent=False)

    def forward(self) -> dist.TorchDistribution:
        """The distribution of one z, event shape ``[size * num_categories]``."""
        return OneHots(self.logits)


class RelaxedCategorical(Categorical):
    r"""Concrete (Gumbel-softmax) variables: proportions that are nearly one-hot, with gradients.

    .. math:: z_i = \operatorname{softmax} \big((\log \pi_i + g_i) / \tau\big), \qquad
        g_{ik} \text{ Gumbel}

    The model has continuous codes and its own log p(x), which differs from that of the discrete model. A
    bit is a variable of two categories.

    Args:
        num_categories: Proportions of each variable, K.
        size: Number of variables, d. The width of z is ``size * num_categories``.
        temperature: tau, at least 0.1. Lower values give draws nearer to one-hot.
        learn: Whether the probabilities, which start equal, are learned.

    References:
        Maddison et al., The Concrete Distribution, 2017. arXiv:1611.00712; Jang et al., Categorical
        Reparameterization with Gumbel-Softmax, 2017. arXiv:1611.01144

    Example:
        >>> RelaxedCategorical(10, size=2)().sample().sum().round()
        tensor(2.)
    """

    def __init__(
        self, num_categories: int, *, size: int = 1, temperature: float = 0.5, learn: bool = True
    ) -> None:
        check_at_least_two("priors.RelaxedCategorical: num_categories", num_categories)
        check_temperature("priors.RelaxedCategorical", temperature)
        super().__init__(num_categories, size=size, learn=learn)
        self.temperature = temperature

    def forward(self) -> dist.TorchDistribution:
        """The distribution of one z, event shape ``[size * num_categories]``."""
        return RelaxedOneHots(self.logits, self.temperature)


class AutoregressiveBernoulli(nn.Module):
    r"""Bits, each given those before it by a recurrent network.

    .. math:: p(z) = \prod_{i=1}^d p(z_i \mid z_1, \dots, z_{i-1})

    The density takes one pass, a draw takes d.

    Args:
        dim: Number of bits, d, at least 2, and the width of z.
        hidden: Width of the recurrent state.

    References:
        Larochelle and Murray, The Neural Autoregressive Distribution Estimator, 2011; van den Oord
        et al., Neural Discrete Representation Learning, 2017, for such priors. arXiv:1711.00937

    Example:
        >>> AutoregressiveBernoulli(8)().sample((5,)).shape
        torch.Size([5, 8])
    """

    def __init__(self, dim: int, *, hidden: int = 64) -> None:
        super().__init__()
        check_at_least_two("AutoregressiveBernoulli: dim", dim, ": for one variable, use priors.Bernoulli")
        self.dim = dim
        self.net = _Causal(dim, 1, hidden)

    def forward(self) -> dist.TorchDistribution:
        """The distribution of one z, event shape ``[dim]``."""
        like = self.net.output.bias
        return Autoregressive(lambda z: self.net(z)[..., 0], Bits, self.dim, self.dim, like)


class AutoregressiveCategorical(nn.Module):
    r"""Categorical variables, each given those before it by a recurrent network.

    .. math:: p(z) = \prod_{i=1}^d p(z_i \mid z_1, \dots, z_{i-1})

    The density takes one pass, a draw takes d.

    Args:
        num_categories: Number of values of each variable.
        size: Number of variables, d, at least 2. The width of z is ``size * num_categories``, one-hot vectors
            side by side.
        hidden: Width of the recurrent state.

    References:
        van den Oord et al., Neural Discrete Representation Learning, 2017. arXiv:1711.00937

    Example:
        >>> AutoregressiveCategorical(4, size=8)().sample((5,)).shape
        torch.Size([5, 32])
    """

    def __init__(self, num_categories: int, *, size: int, hidden: int = 64) -> None:
        super().__init__()
        check_count("AutoregressiveCategorical: num_categories", num_categories)
        check_at_least_two(
            "AutoregressiveCategorical: size", size, ": for one variable, use priors.Categorical"
        )
        self.size, self.num_categories = size, num_categories
        self.net = _Causal(size, num_categories, hidden)

    def forward(self) -> dist.TorchDistribution:
        """The distribution of one z, event shape ``[size * num_categories]``."""
        width = self.size * self.num_categories
        return Autoregressive(self.net, OneHots, self.size, width, self.net.output.bias)


class _Causal(nn.Module):
    """Map values ``[..., size * width]`` to logits ``[..., size, width]``, each from the values before it."""

    def __init__(self, size: int, width: int, hidden: int) -> None:
        super().__init__()
        check_count("an autoregressive prior's hidden", hidden)
        self.size, self.width = size, width
        self.state = nn.GRU(width, hidden, batch_first=True)
        self.output = nn.Linear(hidden, width)

    def forward(self, value: Tensor) -> Tensor:
        steps = value.reshape(-1, self.size, self.width)
        before = torch.cat([torch.zeros_like(steps[:, :1]), steps[:, :-1]], 1)
        return self.output(self.state(before)[0]).reshape(*value.shape[:-1], self.size, self.width)
