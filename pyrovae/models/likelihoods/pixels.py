"""Likelihoods of grey values in [0, 1]: densities, and probabilities of 8-bit levels k / 255."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from pyrovae.core.checks import check_count
from pyrovae.models import distributions
from pyrovae.models.base import NetLikelihood, blocks, check_at_least_two, check_multiple

__all__ = ["Beta", "Categorical", "ContinuousBernoulli", "DiscretizedLogistic"]


class ContinuousBernoulli(NetLikelihood):
    r"""A density over [0, 1], for grey values without dequantisation.

    .. math:: p(x \mid z) = \prod_i C(l_i) \, \pi_i^{x_i} (1 - \pi_i)^{1 - x_i}, \qquad
        l = \operatorname{logit} \pi = \mathrm{net}(z), \quad C(l) = l / \tanh(l / 2)

    C is the constant that is missing where a Bernoulli is given grey values. As it is a density, log p(x)
    has no meaning in bits on values that are not dequantised.

    Args:
        net: Maps ``[..., dim]`` to logits ``[..., D]``.

    References:
        Loaiza-Ganem and Cunningham, The Continuous Bernoulli, 2019. arXiv:1907.06845

    Example:
        >>> ContinuousBernoulli(nn.Linear(2, 8))(torch.randn(5, 2)).log_prob(torch.rand(5, 8)).shape
        torch.Size([5])
    """

    def given(self, parameters: Tensor) -> dist.TorchDistribution:
        return distributions.ContinuousBernoulli(parameters).to_event(1)


class Beta(NetLikelihood):
    r"""A density over (0, 1) with a mean and a concentration for each feature.

    .. math:: p(x \mid z) = \prod_i \mathrm{Beta}(x_i; \mu_i \nu_i, (1 - \mu_i) \nu_i), \qquad
        (\operatorname{logit} \mu, \log \nu) = \mathrm{net}(z)

    Values of exactly 0 or 1 are refused: dequantise first.

    Args:
        net: Maps ``[..., dim]`` to ``[..., 2 * D]``: the logits of means, then log concentrations.

    References:
        Ferrari and Cribari-Neto, Beta Regression for Modelling Rates and Proportions, 2004.
        doi:10.1080/0266476042000214501

    Example:
        >>> Beta(nn.Linear(2, 2 * 8))(torch.randn(5, 2)).event_shape
        torch.Size([8])
    """

    @staticmethod
    def net_width(features: int) -> int:
        return 2 * features

    def given(self, parameters: Tensor) -> dist.TorchDistribution:
        names = "the logit of the mean", "log concentration"
        logits, log_concentration = blocks("likelihoods.Beta", parameters, *names)
        ones = (log_concentration + logsigmoid(logits)).exp()
        zeros = (log_concentration + logsigmoid(-logits)).exp()
        return distributions.OpenBeta(ones, zeros, validate_args=False).to_event(1)


class Categorical(NetLikelihood):
    r"""A probability for each level of each pixel, without any order among them.

    .. math:: p(x = \tfrac{k}{L - 1} \mid z) = \prod_i \pi_{i, k_i}, \qquad
        \operatorname{softmax}^{-1} \pi_i = \mathrm{net}(z)_i

    Data are levels scaled to [0, 1]: k / 255 for 8-bit pixels.

    Args:
        net: Maps ``[..., dim]`` to ``[..., levels * D]``: the D logits of the first level, then those
            of the second, and so on.
        levels: L.

    References:
        van den Oord et al., Pixel Recurrent Neural Networks, 2016. arXiv:1601.06759

    Example:
        >>> Categorical(nn.Linear(2, 256 * 8))(torch.randn(5, 2)).log_prob(torch.ones(5, 8)).shape
        torch.Size([5])
    """

    def __init__(self, net: nn.Module, *, levels: int = 256) -> None:
        super().__init__(net)
        check_at_least_two("likelihoods.Categorical: levels", levels)
        self.levels = levels

    @staticmethod
    def net_width(features: int, levels: int = 256) -> int:
        return levels * features

    def given(self, parameters: Tensor) -> dist.TorchDistribution:
        check_multiple("likelihoods.Categorical", parameters, self.levels, "feature")
        logits = parameters.unflatten(-1, (self.levels, -1)).transpose(-1, -2)
        return distributions.Levels(logits).to_event(1)


class DiscretizedLogistic(NetLikelihood):
    r"""A mixture of rounded logistic variables for each pixel; the end bins reach to infinity.

    .. math:: p(x \mid z) = \prod_i \sum_{m=1}^M \pi_{im} \Big[
        \sigma\Big(\frac{x_i + w/2 - \mu_{im}}{s_{im}}\Big) -
        \sigma\Big(\frac{x_i - w/2 - \mu_{im}}{s_{im}}\Big) \Big], \qquad w = \tfrac{1}{L - 1}

    Data are levels scaled to [0, 1]: k / 255 for 8-bit pixels. The network's locs are on that scale
    about its middle, ``mu = 1/2 + loc``, and its scales start near 1/8: ``s = exp(log_scale) / 8``.

    Args:
        net: Maps ``[..., dim]`` to blocks of ``[..., D]``: locs and log scales; for a mixture, M of
            locs, M of log scales and M of weights' logits.
        components: M.
        levels: L.

    References:
        Kingma et al., Improved Variational Inference with Inverse Autoregressive Flow, 2016.
        arXiv:1606.04934; Salimans et al., PixelCNN++, 2017. arXiv:1701.05517

    Example:
        >>> DiscretizedLogistic(nn.Linear(2, 3 * 5 * 8), components=5)(torch.randn(4, 2)).event_shape
        torch.Size([8])
    """

    def __init__(self, net: nn.Module, *, components: int = 1, levels: int = 256) -> None:
        super().__init__(net)
        check_count("likelihoods.DiscretizedLogistic: components", components)
        check_at_least_two("likelihoods.DiscretizedLogistic: levels", levels)
        self.components = components
        self.levels = levels

    @staticmethod
    def net_width(features: int, components: int = 1) -> int:
        return (2 if components == 1 else 3 * components) * features

    def given(self, parameters: Tensor) -> dist.TorchDistribution:
        names = ["loc", "log scale"] if self.components == 1 else ["loc", "log scale", "logit"]
        parts = blocks("likelihoods.DiscretizedLogistic", parameters, *names * self.components)
        each = [
            torch.stack(parts[i : i + self.components], -1) for i in range(0, len(parts), self.components)
        ]
        loc, scale = each[0] + 0.5, each[1].exp() / 8
        if self.components == 1:
            return distributions.DiscretizedLogistic(loc[..., 0], scale[..., 0], self.levels).to_event(1)
        weights = dist.Categorical(logits=each[2], validate_args=False)
        bins = distributions.DiscretizedLogistic(loc, scale, self.levels)
        return dist.MixtureSameFamily(weights, bins, validate_args=False).to_event(1)
