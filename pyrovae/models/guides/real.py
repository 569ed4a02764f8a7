"""Guides over real vectors: normals of growing covariance, a mixture of normals, and a point."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae.core.checks import check_count
from pyrovae.models import distributions
from pyrovae.models.base import NetGuide, check_at_least_two, cut, loc_and_scale

__all__ = ["Delta", "FullRankNormal", "GaussianMixture", "LowRankNormal", "Normal"]


class Normal(NetGuide):
    r"""A normal with diagonal covariance, the mean-field guide of the first VAE.

    .. math:: q(z \mid x) = \mathcal N(z; \mu(x), \operatorname{diag} \sigma^2(x)), \qquad
        (\mu, \log \sigma^2) = \mathrm{net}(x)

    Draws are :math:`z = \mu + \sigma \epsilon` with standard normal noise, so gradients pass.

    Args:
        net: Maps ``[..., *event]`` to ``[..., 2 * dim]``: loc, then log variance.

    References:
        Kingma and Welling, Auto-Encoding Variational Bayes, 2014. arXiv:1312.6114

    Example:
        >>> from pyrovae import networks
        >>> q = Normal(networks.MLP(784, 2 * 16, hidden=[400]))(torch.rand(32, 784))
        >>> q.batch_shape, q.event_shape
        (torch.Size([32]), torch.Size([16]))
    """

    @staticmethod
    def net_width(dim: int) -> int:
        return 2 * dim

    def given(self, parameters: Tensor) -> dist.TorchDistribution:
        loc, scale = loc_and_scale("guides.Normal", parameters)
        return dist.Normal(loc, scale, validate_args=False).to_event(1)


class LowRankNormal(NetGuide):
    r"""A normal whose covariance is a diagonal plus a matrix of low rank.

    .. math:: q(z \mid x) = \mathcal N(z; \mu, V V^\top + \operatorname{diag} \sigma^2), \qquad
        (\mu, \log \sigma^2, V) = \mathrm{net}(x)

    Args:
        net: Maps ``[..., *event]`` to ``[..., (2 + rank) * dim]``: loc, log variance, then V by rows.
        dim: Width of z.
        rank: Columns of V.

    References:
        Ong et al., Gaussian Variational Approximation with a Factor Covariance Structure, 2018.
        arXiv:1701.03208

    Example:
        >>> LowRankNormal(nn.Linear(784, 4 * 16), 16, rank=2)(torch.rand(32, 784)).event_shape
        torch.Size([16])
    """

    def __init__(self, net: nn.Module, dim: int, *, rank: int) -> None:
        super().__init__(net)
        check_count("guides.LowRankNormal: dim", dim)
        check_count("guides.LowRankNormal: rank", rank)
        self.dim, self.rank = dim, rank

    @staticmethod
    def net_width(dim: int, rank: int) -> int:  # type: ignore[override]
        return (2 + rank) * dim

    def given(self, parameters: Tensor) -> dist.TorchDistribution:
        widths = {"loc": self.dim, "log_variance": self.dim, "factor": self.dim * self.rank}
        loc, log_variance, factor = cut("guides.LowRankNormal", parameters, **widths)
        factor = factor.unflatten(-1, (self.dim, self.rank))
        return distributions.LowRankNormal(loc, factor, log_variance.exp(), validate_args=False)


class FullRankNormal(NetGuide):
    r"""A normal with any covariance, by its Cholesky factor.

    .. math:: q(z \mid x) = \mathcal N(z; \mu, L L^\top), \qquad
        L = \operatorname{diag} \sigma \, (I + N), \quad (\mu, \log \sigma^2, N) = \mathrm{net}(x)

    N has entries below the diagonal only. Each row of L has its own scale, so that L is not nearly singular,
    and gradients stay finite, where a dimension is narrow.

    Args:
        net: Maps ``[..., *event]`` to ``[..., 2 * dim + dim * (dim - 1) / 2]``: loc, log variance,
            then N by rows.
        dim: Width of z.

    References:
        Kingma and Welling, An Introduction to Variational Autoencoders, 2019, section 2.5. arXiv:1906.02691

    Example:
        >>> FullRankNormal(nn.Linear(784, 8 + 6), 4)(torch.rand(32, 784)).event_shape
        torch.Size([4])
    """

    def __init__(self, net: nn.Module, dim: int) -> None:
        super().__init__(net)
        check_count("guides.FullRankNormal: dim", dim)
        self.dim = dim

    @staticmethod
    def net_width(dim: int) -> int:
        return 2 * dim + dim * (dim - 1) // 2

    def given(self, parameters: Tensor) -> dist.TorchDistribution:
        dim = self.dim
        widths = {"loc": dim, "log_variance": dim, "below_the_diagonal": dim * (dim - 1) // 2}
        loc, log_variance, below = cut("guides.FullRankNormal", parameters, **widths)
        rows, columns = torch.tril_indices(dim, dim, -1, device=loc.device)
        unit_tril = torch.ones_like(loc).diag_embed()
        unit_tril[..., rows, columns] = below
        scale_tril = (log_variance / 2).exp()[..., None] * unit_tril
        return dist.MultivariateNormal(loc, scale_tril=scale_tril, validate_args=False)


class GaussianMixture(NetGuide):
    r"""A mixture of diagonal normals, for posteriors of several modes.

    .. math:: q(z \mid x) = \sum_k \pi_k \, \mathcal N(z; \mu_k, \operatorname{diag} \sigma_k^2), \qquad
        (\operatorname{softmax}^{-1} \pi, \mu, \log \sigma^2) = \mathrm{net}(x)

    Draws have pathwise gradients, those of the weights included. Components that start with the same
    parameters stay the same, so the network's biases must differ between them, as random ones do. The
    weights of components that do not overlap get almost no gradient.

    Args:
        net: Maps ``[..., *event]`` to ``[..., components * (1 + 2 * dim)]``: logits of the weights,
            then locs, then log variances, each component by component.
        dim: Width of z, at least 2.
        components: K.

    References:
        Jankowiak and Karaletsos, Pathwise Derivatives for Multivariate Distributions, 2018. arXiv:1806.01856

    Example:
        >>> GaussianMixture(nn.Linear(784, 3 * 9), 4, components=3)(torch.rand(32, 784)).event_shape
        torch.Size([4])
    """

    def __init__(self, net: nn.Module, dim: int, *, components: int) -> None:
        super().__init__(net)
        check_count("guides.GaussianMixture: components", components)
        check_at_least_two("guides.GaussianMixture: dim", dim)
        self.dim, self.components = dim, components

    @staticmethod
    def net_width(dim: int, components: int) -> int:  # type: ignore[override]
        return components * (2 * dim + 1)

    def given(self, parameters: Tensor) -> dist.TorchDistribution:
        each = self.components * self.dim
        widths = {"logits": self.components, "locs": each, "log_variances": each}
        logits, locs, log_variances = cut("guides.GaussianMixture", parameters, **widths)
        shape = (self.components, self.dim)
        scales = (log_variances.unflatten(-1, shape) / 2).exp()
        return distributions.GaussianMixture(locs.unflatten(-1, shape), scales, logits)


class Delta(NetGuide):
    r"""A point: the model is then trained as an autoencoder with the prior as penalty.

    .. math:: q(z \mid x) = \delta(z - \mu(x)), \qquad \mu = \mathrm{net}(x)

    The objective, E[log p(x, z)], is no bound on log p(x), and a point has no density for importance
    weights: :func:`pyrovae.evaluate` refuses it. Evaluate with another guide.

    Args:
        net: Maps ``[..., *event]`` to the point, ``[..., dim]``.

    References:
        Ghosh et al., From Variational to Deterministic Autoencoders, 2020. arXiv:1903.12436

    Example:
        >>> Delta(nn.Linear(784, 16))(torch.rand(32, 784)).event_shape
        torch.Size([16])
    """

    def given(self, parameters: Tensor) -> dist.TorchDistribution:
        return dist.Delta(parameters, event_dim=1)
