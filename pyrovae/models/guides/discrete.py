"""Guides over discrete codes, vectors of zeros and ones, and their relaxations."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
from torch import Tensor, nn

from pyrovae.core.checks import check_count, check_positive
from pyrovae.models import distributions
from pyrovae.models.base import NetGuide, Part, as_module, check_multiple

__all__ = ["Bernoulli", "Categorical", "RelaxedCategorical", "StraightThrough"]


class Bernoulli(NetGuide):
    r"""Independent bits; the gradient of the ELBO is estimated by the score function.

    .. math:: q(z \mid x) = \prod_i \pi_i(x)^{z_i} (1 - \pi_i(x))^{1 - z_i}, \qquad
        \operatorname{logit} \pi = \mathrm{net}(x)

    Args:
        net: Maps ``[..., *event]`` to logits, ``[..., dim]``.

    References:
        Mnih and Gregor, Neural Variational Inference and Learning in Belief Networks, 2014. arXiv:1402.0030

    Example:
        >>> import torch
        >>> Bernoulli(nn.Linear(784, 16))(torch.rand(32, 784)).event_shape
        torch.Size([16])
    """

    def given(self, parameters: Tensor) -> dist.TorchDistribution:
        return distributions.Bits(parameters)


class Categorical(NetGuide):
    r"""Independent categorical variables as one-hot vectors, side by side.

    .. math:: q(z \mid x) = \prod_i \pi_{i, z_i}(x), \qquad
        \operatorname{softmax}^{-1} \pi_i = \mathrm{net}(x)_i

    The gradient of the ELBO is estimated by the score function.

    Args:
        net: Maps ``[..., *event]`` to ``[..., size * num_categories]``: the logits of the first
            variable, then those of the second, and so on.
        num_categories: Values of each variable.

    References:
        Jang et al., Categorical Reparameterization with Gumbel-Softmax, 2017. arXiv:1611.01144

    Example:
        >>> import torch
        >>> q = Categorical(nn.Linear(784, 8 * 10), num_categories=10)(torch.rand(32, 784))
        >>> q.sample().sum(-1)[0]
        tensor(8.)
    """

    def __init__(self, net: nn.Module, *, num_categories: int) -> None:
        super().__init__(net)
        check_count("guides.Categorical: num_categories", num_categories)
        self.num_categories = num_categories

    def given(self, parameters: Tensor) -> dist.TorchDistribution:
        return distributions.OneHots(self.logits(parameters))

    def logits(self, parameters: Tensor) -> Tensor:
        """The network's output by variable: ``[..., size, num_categories]``."""
        check_multiple(f"guides.{type(self).__name__}", parameters, self.num_categories, "variable")
        return parameters.unflatten(-1, (-1, self.num_categories))


class RelaxedCategorical(Categorical):
    r"""Concrete (Gumbel-softmax) variables: proportions that are nearly one-hot, with gradients.

    .. math:: z_i = \operatorname{softmax} \big((\mathrm{net}(x)_i + g_i) / \tau\big), \qquad
        g_{ik} \text{ Gumbel}

    The prior must be over the same proportions, such as ``priors.RelaxedCategorical``. Gradients are
    unbiased for the relaxed model, which is another model than the discrete one.

    Args:
        net: Maps ``[..., *event]`` to ``[..., size * num_categories]``: the logits of the first
            variable, then those of the second, and so on.
        num_categories: Proportions of each variable.
        temperature: tau, at least 0.1. Lower values give draws nearer to one-hot and noisier gradients.

    References:
        Maddison et al., The Concrete Distribution, 2017. arXiv:1611.00712; Jang et al., Categorical
        Reparameterization with Gumbel-Softmax, 2017. arXiv:1611.01144

    Example:
        >>> import torch
        >>> q = RelaxedCategorical(nn.Linear(784, 8 * 10), num_categories=10)
        >>> q(torch.rand(32, 784)).rsample().shape
        torch.Size([32, 80])
    """

    def __init__(self, net: nn.Module, *, num_categories: int, temperature: float = 0.5) -> None:
        super().__init__(net, num_categories=num_categories)
        distributions.check_temperature("guides.RelaxedCategorical", temperature)
        self.temperature = temperature

    def given(self, parameters: Tensor) -> dist.TorchDistribution:
        return distributions.RelaxedOneHots(self.logits(parameters), self.temperature)


class StraightThrough(nn.Module):
    r"""A discrete guide whose draws have the gradient of their Gumbel-softmax relaxation.

    Draws, density, ELBO and log p(x) are those of the discrete guide. The gradient has less noise than the
    score function's, and a bias that no number of draws removes. The prior may be any over discrete codes.

    Args:
        guide: :class:`Bernoulli`, :class:`Categorical`, or any guide with such a distribution.
        temperature: Temperature of the relaxation; a callback of ``fit`` may lower the attribute.

    Raises:
        ValueError: The guide is over other values.

    References:
        Bengio et al., Estimating or Propagating Gradients Through Stochastic Neurons, 2013. arXiv:1308.3432;
        Jang et al., Categorical Reparameterization with Gumbel-Softmax, 2017. arXiv:1611.01144

    Example:
        >>> import torch
        >>> from pyrovae import guides
        >>> q = StraightThrough(guides.Bernoulli(nn.Linear(9, 4)))
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
        """q(z | x), with the batch and event shapes of the guide."""
        return self._through(self.guide(x))

    def given(self, parameters: Tensor) -> dist.TorchDistribution:
        """The distribution whose parameters are ``parameters``, an output of the network."""
        return self._through(self.guide.given(parameters))

    def _through(self, q: Any) -> dist.TorchDistribution:
        if isinstance(q, distributions.OneHots):
            return distributions.StraightThroughOneHots(q.logits, self.temperature)
        if isinstance(q, distributions.Bits):
            return distributions.StraightThroughBits(q.logits, self.temperature)
        raise ValueError(
            f"StraightThrough: takes a guide over bits or one-hot vectors, such as guides.Bernoulli or "
            f"guides.Categorical, got {distributions.family_of(distributions.as_pyro(q))}"
        )
