"""Guides over discrete codes, as vectors of noughts and ones; their ELBO is trained by the score."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
from torch import Tensor, nn

from pyrovae.core.checks import check_count, check_positive
from pyrovae.models.base import Part, as_module
from pyrovae.models.distributions import (
    Bits,
    OneHots,
    RelaxedOneHots,
    StraightThroughBits,
    StraightThroughOneHots,
    as_pyro,
    check_temperature,
    family_of,
)

__all__ = ["Bernoulli", "Categorical", "RelaxedCategorical", "StraightThrough"]


class Bernoulli(nn.Module):
    r"""Independent bits.

    .. math:: q(z \mid x) = \prod_i \pi_i(x)^{z_i} (1 - \pi_i(x))^{1 - z_i}, \qquad
        \operatorname{logit} \pi = \mathrm{net}(x)

    Args:
        net: Maps ``[..., *event]`` to logits, ``[..., dim]``.

    References:
        Mnih and Gregor, Neural Variational Inference and Learning in Belief Networks, 2014.
        arXiv:1402.0030

    Example:
        >>> import torch
        >>> from pyrovae import networks
        >>> Bernoulli(networks.MLP(784, 16))(torch.rand(32, 784)).event_shape
        torch.Size([16])
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    @staticmethod
    def net_width(dim: int) -> int:
        """How wide the network's output is for so many latents."""
        return dim

    def forward(self, x: Tensor) -> dist.TorchDistribution:
        """q(z | x): batch shape ``[...]``, event shape ``[dim]``."""
        return self.given(self.net(x))

    def given(self, parameters: Tensor) -> dist.TorchDistribution:
        """The distribution that the network's output stands for."""
        return Bits(parameters)


class Categorical(nn.Module):
    r"""Independent categorical variables as one-hot vectors, side by side.

    .. math:: q(z \mid x) = \prod_i \pi_{i, z_i}(x), \qquad
        \operatorname{softmax}^{-1} \pi_i = \mathrm{net}(x)_i

    Args:
        net: Maps ``[..., *event]`` to ``[..., size * num_categories]``: the logits of the first
            variable, then those of the second, and so on.
        num_categories: Values of each variable.

    Raises:
        ValueError: The network's output is no multiple of ``num_categories``.

    References:
        Jang et al., Categorical Reparameterization with Gumbel-Softmax, 2017. arXiv:1611.01144

    Example:
        >>> import torch
        >>> from pyrovae import networks
        >>> q = Categorical(networks.MLP(784, 8 * 10), num_categories=10)(torch.rand(32, 784))
        >>> q.sample().sum(-1)[0]
        tensor(8.)
    """

    def __init__(self, net: nn.Module, *, num_categories: int) -> None:
        super().__init__()
        check_count("guides.Categorical: num_categories", num_categories)
        self.net, self.num_categories = net, num_categories

    @staticmethod
    def net_width(dim: int) -> int:
        """How wide the network's output is for so many latents."""
        return dim

    def forward(self, x: Tensor) -> dist.TorchDistribution:
        """q(z | x): batch shape ``[...]``, event shape ``[size * num_categories]``."""
        return self.given(self.net(x))

    def given(self, parameters: Tensor) -> dist.TorchDistribution:
        """The distribution that the network's output stands for."""
        return OneHots(self.logits(parameters))

    def logits(self, parameters: Tensor) -> Tensor:
        """The network's output by variable: ``[..., size, num_categories]``."""
        if parameters.shape[-1] % self.num_categories:
            raise ValueError(
                f"guides.{type(self).__name__}: the network must give {self.num_categories} logits a "
                f"variable, a multiple of {self.num_categories}; it gives {parameters.shape[-1]}"
            )
        return parameters.unflatten(-1, (-1, self.num_categories))


class RelaxedCategorical(Categorical):
    r"""Concrete (Gumbel-softmax) variables: proportions that are nearly one-hot, with gradients.

    .. math:: z_i = \operatorname{softmax} \big((\mathrm{net}(x)_i + g_i) / \tau\big), \qquad
        g_{ik} \text{ Gumbel}

    For a prior over the same proportions, such as ``priors.RelaxedCategorical``. Gradients are those of
    the relaxed model, without bias; it is the model that is another than the discrete one.

    Args:
        net: Maps ``[..., *event]`` to ``[..., size * num_categories]``: the logits of the first
            variable, then those of the second, and so on.
        num_categories: Proportions of each variable.
        temperature: tau, at least 0.1; the lower the nearer to one-hot, and the noisier the gradient.

    Raises:
        ValueError: The network's output is no multiple of ``num_categories``.

    References:
        Maddison et al., The Concrete Distribution, 2017. arXiv:1611.00712; Jang et al., Categorical
        Reparameterization with Gumbel-Softmax, 2017. arXiv:1611.01144

    Example:
        >>> import torch
        >>> from pyrovae import networks
        >>> q = RelaxedCategorical(networks.MLP(784, 8 * 10), num_categories=10)
        >>> q(torch.rand(32, 784)).rsample().shape
        torch.Size([32, 80])
    """

    def __init__(self, net: nn.Module, *, num_categories: int, temperature: float = 0.5) -> None:
        super().__init__(net, num_categories=num_categories)
        check_temperature("guides.RelaxedCategorical", temperature)
        self.temperature = temperature

    def given(self, parameters: Tensor) -> dist.TorchDistribution:
        """The distribution that the network's output stands for."""
        return RelaxedOneHots(self.logits(parameters), self.temperature)


class StraightThrough(nn.Module):
    r"""A discrete guide whose draws have the gradient of their Gumbel-softmax relaxation.

    Draws, density, ELBO and log p(x) are the discrete guide's; only the gradient is another, with less
    noise than the score function's and a bias that no number of draws removes. The prior may be any over
    discrete codes.

    Args:
        guide: :class:`Bernoulli`, :class:`Categorical`, or any guide with such a distribution.
        temperature: Of the relaxation; a plain attribute, which a callback of ``fit`` may lower.

    Raises:
        ValueError: A guide over something else.

    References:
        Bengio et al., Estimating or Propagating Gradients Through Stochastic Neurons, 2013.
        arXiv:1308.3432; Jang et al., Categorical Reparameterization with Gumbel-Softmax, 2017.
        arXiv:1611.01144

    Example:
        >>> import torch
        >>> from pyrovae import guides, networks
        >>> q = StraightThrough(guides.Bernoulli(networks.MLP(9, 4)))
        >>> z = q(torch.rand(5, 9)).rsample()
        >>> z.unique().tolist(), z.requires_grad
        ([0.0, 1.0], True)
    """

    def __init__(self, guide: Part, temperature: float = 1.0) -> None:
        super().__init__()
        check_positive("StraightThrough: temperature", temperature)
        self.guide: Any = as_module(guide)
        self.temperature = temperature

    @property
    def net(self) -> nn.Module:
        """The guide's network."""
        return self.guide.net

    def forward(self, x: Tensor) -> dist.TorchDistribution:
        """q(z | x): batch and event shapes are the guide's."""
        return self._through(self.guide(x))

    def given(self, parameters: Tensor) -> dist.TorchDistribution:
        """The distribution that the network's output stands for."""
        return self._through(self.guide.given(parameters))

    def _through(self, q: Any) -> dist.TorchDistribution:
        if isinstance(q, OneHots):
            return StraightThroughOneHots(q.logits, self.temperature)
        if isinstance(q, Bits):
            return StraightThroughBits(q.logits, self.temperature)
        raise ValueError(
            f"StraightThrough: takes a guide over bits or one-hot vectors, such as guides.Bernoulli or "
            f"guides.Categorical, got {family_of(as_pyro(q))}"
        )
