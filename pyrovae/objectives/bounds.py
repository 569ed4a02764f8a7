r"""Bounds on log p(x) from several draws of each datum, for training.

Each is a function R of the log-weights :math:`\log w_s = \log p(x, z_s) - \log q(z_s \mid x)`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from pyrovae.core.checks import check_count
from pyrovae.objectives.base import Bound
from pyrovae.objectives.terms import Term

__all__ = ["CIWAE", "ELBO", "IWAE", "MIWAE", "PIWAE", "Renyi"]


class ELBO(Bound):
    r"""The evidence lower bound from S draws: Pyro's Trace_ELBO, with a choice of gradients.

    .. math:: R = \frac1S \sum_s \log w_s

    Args:
        num_particles: S.
        gradient: "standard", "stl" or "score".
        terms: Terms to add; see :mod:`pyrovae.objectives`.

    References:
        Roeder et al., Sticking the Landing, 2017. arXiv:1703.09194; Kool et al., Buy 4 REINFORCE
        Samples, Get a Baseline for Free!, 2019, for "score".

    Example:
        >>> import torch
        >>> from pyrovae.testing import LinearGaussian
        >>> oracle = LinearGaussian(torch.ones(3, 1))  # its guide is exact
        >>> x = oracle.sample(5)
        >>> loss = ELBO().loss(oracle.model, oracle.guide, x)
        >>> abs(loss + oracle.log_evidence(x).sum().item()) < 1e-3
        True
    """

    gradients = ("standard", "stl", "score")

    def __init__(
        self, num_particles: int = 1, *, gradient: str = "standard", terms: Sequence[Term] = ()
    ) -> None:
        super().__init__(num_particles, gradient=gradient, terms=terms)

    def bound(self, log_weights: Tensor) -> Tensor:
        """The mean."""
        return log_weights.mean(-2)


class IWAE(Bound):
    r"""The importance-weighted bound, which rises to log p(x) with S.

    .. math:: R = \log \frac1S \sum_s w_s

    With many draws the signal of the guide's standard gradient falls faster than its noise; that of "dreg"
    does not.

    Args:
        num_particles: S.
        gradient: "standard", "stl" (biased where S > 1), "dreg", "score" or "vimco".
        terms: Terms to add; see :mod:`pyrovae.objectives`.

    References:
        Burda et al., Importance Weighted Autoencoders, 2016. arXiv:1509.00519; Rainforth et al.,
        Tighter Variational Bounds are Not Necessarily Better, 2018. arXiv:1802.04537; Tucker et al.,
        Doubly Reparameterized Gradient Estimators, 2018. arXiv:1810.04152

    Example:
        >>> import torch
        >>> from pyrovae.testing import LinearGaussian
        >>> oracle = LinearGaussian(torch.ones(3, 1), widen=2.0)
        >>> x = oracle.sample(50)
        >>> one, many = (IWAE(s).loss(oracle.model, oracle.guide, x) for s in (1, 50))
        >>> many < one
        True
    """

    def bound(self, log_weights: Tensor) -> Tensor:
        """The log of the mean weight."""
        return _log_mean(log_weights)

    def path_weights(self, log_weights: Tensor) -> Tensor:
        """The squares of the normalised weights."""
        return log_weights.softmax(-2).square()


class Renyi(Bound):
    r"""The variational Renyi bound: alpha = 0 is IWAE's, alpha = 1 the ELBO.

    .. math:: R = \frac{1}{1 - \alpha} \log \frac1S \sum_s w_s^{1 - \alpha}

    Args:
        alpha: Order, at least 0; the bound falls with it.
        num_particles: S.
        gradient: "standard", "stl" (biased where S > 1), "dreg", "score" or "vimco".
        terms: Terms to add; see :mod:`pyrovae.objectives`.

    Raises:
        ValueError: ``alpha`` is negative or not finite.

    References:
        Li and Turner, Renyi Divergence Variational Inference, 2016. arXiv:1602.02311

    Example:
        >>> import torch
        >>> from pyrovae.testing import LinearGaussian
        >>> oracle = LinearGaussian(torch.ones(3, 1), widen=2.0)
        >>> x = oracle.sample(50)
        >>> losses = [Renyi(a, 50).loss(oracle.model, oracle.guide, x) for a in (0, 0.5, 1, 2)]
        >>> losses == sorted(losses)
        True
    """

    def __init__(
        self, alpha: float, num_particles: int, *, gradient: str = "standard", terms: Sequence[Term] = ()
    ) -> None:
        if not 0 <= alpha < math.inf:
            raise ValueError(
                f"Renyi: alpha must be at least 0 and finite, got {alpha:g}: below 0 it bounds log p(x) from "
                f"neither side"
            )
        super().__init__(num_particles, gradient=gradient, terms=terms)
        self.alpha = alpha

    def bound(self, log_weights: Tensor) -> Tensor:
        """The log of the mean power of the weights, over the power."""
        power = 1 - self.alpha
        if abs(power) < 1e-6:  # where the quotient loses its digits, the limit is nearer
            return log_weights.mean(-2)
        return _log_mean(power * log_weights) / power

    def path_weights(self, log_weights: Tensor) -> Tensor:
        """The normalised powers and their squares, by the weights alpha and 1 - alpha."""
        normalised = ((1 - self.alpha) * log_weights).softmax(-2)
        return self.alpha * normalised + (1 - self.alpha) * normalised.square()


class MIWAE(Bound):
    r"""The mean of M importance-weighted bounds of K draws each.

    .. math:: R = \frac1M \sum_m \log \frac1K \sum_k w_{mk}

    Args:
        num_groups: M.
        group_size: K.
        gradient: "standard", "stl" (biased where K > 1), "dreg" or "vimco".
        terms: Terms to add; see :mod:`pyrovae.objectives`.

    References:
        Rainforth et al., Tighter Variational Bounds are Not Necessarily Better, 2018. arXiv:1802.04537

    Example:
        >>> import torch
        >>> from pyrovae.testing import LinearGaussian
        >>> oracle = LinearGaussian(torch.ones(3, 1))  # its guide is exact
        >>> x = oracle.sample(5)
        >>> loss = MIWAE(2, 3).loss(oracle.model, oracle.guide, x)
        >>> abs(loss + oracle.log_evidence(x).sum().item()) < 1e-3
        True
    """

    gradients: tuple[str, ...] = ("standard", "stl", "dreg", "vimco")

    def __init__(
        self, num_groups: int, group_size: int, *, gradient: str = "standard", terms: Sequence[Term] = ()
    ) -> None:
        name = type(self).__name__
        check_count(f"{name}: num_groups", num_groups)
        check_count(f"{name}: group_size", group_size)
        super().__init__(num_groups * group_size, gradient=gradient, terms=terms)
        self.groups = num_groups, group_size

    def bound(self, log_weights: Tensor) -> Tensor:
        """The mean of the groups' log mean weights."""
        return _log_mean(log_weights.unflatten(-2, self.groups)).mean(-2)

    def path_weights(self, log_weights: Tensor) -> Tensor:
        """The squares of the weights normalised in each group, over M."""
        grouped = log_weights.unflatten(-2, self.groups).softmax(-2)
        return grouped.square().flatten(-3, -2) / self.groups[0]


class CIWAE(Bound):
    r"""A weighted mean of the ELBO and the importance-weighted bound.

    .. math:: R = \beta \frac1S \sum_s \log w_s + (1 - \beta) \log \frac1S \sum_s w_s

    Args:
        beta: From 0 (IWAE) to 1 (ELBO).
        num_particles: S.
        gradient: "standard", "stl" (biased where S > 1), "dreg", "score" or "vimco".
        terms: Terms to add; see :mod:`pyrovae.objectives`.

    Raises:
        ValueError: ``beta`` outside [0, 1].

    References:
        Rainforth et al., Tighter Variational Bounds are Not Necessarily Better, 2018. arXiv:1802.04537

    Example:
        >>> import torch
        >>> from pyrovae.testing import LinearGaussian
        >>> oracle = LinearGaussian(torch.ones(3, 1))  # its guide is exact
        >>> x = oracle.sample(5)
        >>> loss = CIWAE(0.5, 6).loss(oracle.model, oracle.guide, x)
        >>> abs(loss + oracle.log_evidence(x).sum().item()) < 1e-3
        True
    """

    def __init__(
        self, beta: float, num_particles: int, *, gradient: str = "standard", terms: Sequence[Term] = ()
    ) -> None:
        if not 0 <= beta <= 1:
            raise ValueError(f"CIWAE: beta must be between 0 and 1, got {beta:g}")
        super().__init__(num_particles, gradient=gradient, terms=terms)
        self.beta = beta

    def bound(self, log_weights: Tensor) -> Tensor:
        """The weighted mean of the two bounds."""
        return self.beta * log_weights.mean(-2) + (1 - self.beta) * _log_mean(log_weights)

    def path_weights(self, log_weights: Tensor) -> Tensor:
        """The weighted mean of those of the two bounds."""
        squares = log_weights.softmax(-2).square()
        return self.beta / log_weights.shape[-2] + (1 - self.beta) * squares


class PIWAE(MIWAE):
    r"""The model is trained by the bound of all draws, the guide by the mean bound of groups of draws.

    .. math:: R_{\text{model}} = \log \frac{1}{MK} \sum_{mk} w_{mk}, \qquad
        R_{\text{guide}} = \frac1M \sum_m \log \frac1K \sum_k w_{mk}

    The value is the model's. A parameter of both, such as a VampPrior's guide, gets both gradients.

    Args:
        num_groups: M.
        group_size: K.
        gradient: "standard", "stl" (biased where K > 1) or "dreg".
        terms: Terms to add; see :mod:`pyrovae.objectives`.

    References:
        Rainforth et al., Tighter Variational Bounds are Not Necessarily Better, 2018. arXiv:1802.04537

    Example:
        >>> import torch
        >>> from pyrovae.testing import LinearGaussian
        >>> oracle = LinearGaussian(torch.ones(3, 1))  # its guide is exact
        >>> x = oracle.sample(5)
        >>> loss = PIWAE(2, 3).loss(oracle.model, oracle.guide, x)
        >>> abs(loss + oracle.log_evidence(x).sum().item()) < 1e-3
        True
    """

    gradients = ("standard", "stl", "dreg")

    def bound(self, log_weights: Tensor) -> Tensor:
        """The log of the mean weight of all draws."""
        return _log_mean(log_weights)

    def guide_weights(self, log_weights: Tensor) -> Tensor:
        """The weights normalised in each group, over M."""
        return log_weights.unflatten(-2, self.groups).softmax(-2).flatten(-3, -2) / self.groups[0]


def _log_mean(log_weights: Tensor) -> Tensor:
    return log_weights.logsumexp(-2) - math.log(log_weights.shape[-2])
