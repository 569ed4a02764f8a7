"""Guides over discrete codes, as vectors of noughts and ones; their ELBO is trained by the score."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor, nn

from pyrovae.distributions import Bits, OneHots
from pyrovae.reductions import check_count

__all__ = ["Bernoulli", "Categorical"]


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
