"""Guides over real vectors: normals of more and more covariance, their mixture, and a point."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae.core.checks import check_count
from pyrovae.models import distributions
from pyrovae.models.base import cut, loc_and_scale
from pyrovae.models.distributions import GaussianMixture as MixtureOfNormals

__all__ = ["Delta", "FullRankNormal", "GaussianMixture", "LowRankNormal", "Normal"]


class Normal(nn.Module):
    r"""A normal with diagonal covariance, the mean-field guide of the first VAE.

    .. math:: q(z \mid x) = \mathcal N(z; \mu(x), \operatorname{diag} \sigma^2(x)), \qquad
        (\mu, \log \sigma^2) = \mathrm{net}(x)

    Draws are :math:`z = \mu + \sigma \epsilon` with standard normal noise, so gradients pass.

    Args:
        net: Maps ``[..., *event]`` to ``[..., 2 * dim]``: loc, then log variance.

    Raises:
        ValueError: The network's output has an odd width.

    References:
        Kingma and Welling, Auto-Encoding Variational Bayes, 2014. arXiv:1312.6114

    Example:
        >>> from pyrovae import networks
        >>> q = Normal(networks.MLP(784, 2 * 16, hidden=[400]))(torch.rand(32, 784))
        >>> q.batch_shape, q.event_shape
        (torch.Size([32]), torch.Size([16]))
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    @staticmethod
    def net_width(dim: int) -> int:
        """How wide the network's output is for so many latents."""
        return 2 * dim

    def forward(self, x: Tensor) -> dist.TorchDistribution:
        """q(z | x): batch shape ``[...]``, event shape ``[dim]``."""
        return self.given(self.net(x))

    def given(self, parameters: Tensor) -> dist.TorchDistribution:
        """The distribution that the network's output stands for."""
        loc, scale = loc_and_scale("guides.Normal", parameters)
        return dist.Normal(loc, scale, validate_args=False).to_event(1)


class LowRankNormal(nn.Module):
    r"""A normal whose covariance is a diagonal and a few directions.

    .. math:: q(z \mid x) = \mathcal N(z; \mu, V V^\top + \operatorname{diag} \sigma^2), \qquad
        (\mu, \log \sigma^2, V) = \mathrm{net}(x)

    Args:
        net: Maps ``[..., *event]`` to ``[..., (2 + rank) * dim]``: loc, log variance, then V by rows.
        dim: Width of z.
        rank: Columns of V.

    Raises:
        ValueError: The network's output has another width.

    References:
        Ong et al., Gaussian Variational Approximation with a Factor Covariance Structure, 2018.
        arXiv:1701.03208

    Example:
        >>> from pyrovae import networks
        >>> q = LowRankNormal(networks.MLP(784, 4 * 16), 16, rank=2)(torch.rand(32, 784))
        >>> q.batch_shape, q.event_shape
        (torch.Size([32]), torch.Size([16]))
    """

    def __init__(self, net: nn.Module, dim: int, *, rank: int) -> None:
        super().__init__()
        check_count("guides.LowRankNormal: dim", dim)
        check_count("guides.LowRankNormal: rank", rank)
        self.net, self.dim, self.rank = net, dim, rank

    @staticmethod
    def net_width(dim: int, rank: int) -> int:
        """How wide the network's output is for so many latents."""
        return (2 + rank) * dim

    def forward(self, x: Tensor) -> dist.TorchDistribution:
        """q(z | x): batch shape ``[...]``, event shape ``[dim]``."""
        return self.given(self.net(x))

    def given(self, parameters: Tensor) -> dist.TorchDistribution:
        """The distribution that the network's output stands for."""
        widths = {"loc": self.dim, "log_variance": self.dim, "factor": self.dim * self.rank}
        loc, log_variance, factor = cut("guides.LowRankNormal", parameters, **widths)
        factor = factor.unflatten(-1, (self.dim, self.rank))
        return distributions.LowRankNormal(loc, factor, log_variance.exp(), validate_args=False)


class FullRankNormal(nn.Module):
    r"""A normal with any covariance, by its Cholesky factor.

    .. math:: q(z \mid x) = \mathcal N(z; \mu, L L^\top), \qquad
        L = \operatorname{diag} \sigma \, (I + N), \quad (\mu, \log \sigma^2, N) = \mathrm{net}(x)

    with N below the diagonal only. Each row of L has its scale, so that a narrow dimension does not
    make L nearly singular, and gradients infinite, by what is beside its diagonal.

    Args:
        net: Maps ``[..., *event]`` to ``[..., 2 * dim + dim * (dim - 1) / 2]``: loc, log variance,
            then N by rows.
        dim: Width of z.

    Raises:
        ValueError: The network's output has another width.

    References:
        Kingma and Welling, An Introduction to Variational Autoencoders, 2019, section 2.5.
        arXiv:1906.02691

    Example:
        >>> from pyrovae import networks
        >>> q = FullRankNormal(networks.MLP(784, 8 + 6), 4)(torch.rand(32, 784))
        >>> q.batch_shape, q.event_shape
        (torch.Size([32]), torch.Size([4]))
    """

    def __init__(self, net: nn.Module, dim: int) -> None:
        super().__init__()
        check_count("guides.FullRankNormal: dim", dim)
        self.net, self.dim = net, dim

    @staticmethod
    def net_width(dim: int) -> int:
        """How wide the network's output is for so many latents."""
        return 2 * dim + dim * (dim - 1) // 2

    def forward(self, x: Tensor) -> dist.TorchDistribution:
        """q(z | x): batch shape ``[...]``, event shape ``[dim]``."""
        return self.given(self.net(x))

    def given(self, parameters: Tensor) -> dist.TorchDistribution:
        """The distribution that the network's output stands for."""
        dim = self.dim
        widths = {"loc": dim, "log_variance": dim, "below_the_diagonal": dim * (dim - 1) // 2}
        loc, log_variance, below = cut("guides.FullRankNormal", parameters, **widths)
        rows, columns = torch.tril_indices(dim, dim, -1, device=loc.device)
        unit_tril = torch.ones_like(loc).diag_embed()
        unit_tril[..., rows, columns] = below
        scale_tril = (log_variance / 2).exp()[..., None] * unit_tril
        return dist.MultivariateNormal(loc, scale_tril=scale_tril, validate_args=False)


class GaussianMixture(nn.Module):
    r"""A mixture of diagonal normals, for posteriors of several modes.

    .. math:: q(z \mid x) = \sum_k \pi_k \, \mathcal N(z; \mu_k, \operatorname{diag} \sigma_k^2), \qquad
        (\operatorname{softmax}^{-1} \pi, \mu, \log \sigma^2) = \mathrm{net}(x)

    Draws have pathwise gradients, those of the weights included. A network that gives all components
    the same parameters never parts them: the components' biases must differ at the start, as random
    ones do. Of components that do not overlap the weights get next to no gradient.

    Args:
        net: Maps ``[..., *event]`` to ``[..., components * (1 + 2 * dim)]``: logits of the weights,
            then locs, then log variances, each component by component.
        dim: Width of z, at least 2.
        components: K.

    Raises:
        ValueError: No components, a width below 2, or a network's output of another width.

    References:
        Jankowiak and Karaletsos, Pathwise Derivatives for Multivariate Distributions, 2018.
        arXiv:1806.01856

    Example:
        >>> from pyrovae import networks
        >>> q = GaussianMixture(networks.MLP(784, 3 * 9), 4, components=3)(torch.rand(32, 784))
        >>> q.batch_shape, q.event_shape
        (torch.Size([32]), torch.Size([4]))
    """

    def __init__(self, net: nn.Module, dim: int, *, components: int) -> None:
        super().__init__()
        check_count("guides.GaussianMixture: components", components)
        if dim < 2:
            raise ValueError(f"guides.GaussianMixture: dim must be at least 2, got {dim}")
        self.net, self.dim, self.components = net, dim, components

    @staticmethod
    def net_width(dim: int, components: int) -> int:
        """How wide the network's output is for so many latents."""
        return components * (2 * dim + 1)

    def forward(self, x: Tensor) -> dist.TorchDistribution:
        """q(z | x): batch shape ``[...]``, event shape ``[dim]``."""
        return self.given(self.net(x))

    def given(self, parameters: Tensor) -> dist.TorchDistribution:
        """The distribution that the network's output stands for."""
        each = self.components * self.dim
        widths = {"logits": self.components, "locs": each, "log_variances": each}
        logits, locs, log_variances = cut("guides.GaussianMixture", parameters, **widths)
        shape = (self.components, self.dim)
        scales = (log_variances.unflatten(-1, shape) / 2).exp()
        return MixtureOfNormals(locs.unflatten(-1, shape), scales, logits)


class Delta(nn.Module):
    r"""A point: the model is then trained as an autoencoder with the prior as penalty.

    .. math:: q(z \mid x) = \delta(z - \mu(x)), \qquad \mu = \mathrm{net}(x)

    What it maximises, E[log p(x, z)], is no bound on log p(x), and a point has no density to weigh
    with: :func:`pyrovae.evaluate` refuses it. Evaluate with another guide.

    Args:
        net: Maps ``[..., *event]`` to the point, ``[..., dim]``.

    References:
        Ghosh et al., From Variational to Deterministic Autoencoders, 2020. arXiv:1903.12436

    Example:
        >>> from pyrovae import networks
        >>> Delta(networks.MLP(784, 16))(torch.rand(32, 784)).event_shape
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
        """The point: batch shape ``[...]``, event shape ``[dim]``."""
        return self.given(self.net(x))

    def given(self, parameters: Tensor) -> dist.TorchDistribution:
        """The distribution that the network's output stands for."""
        return dist.Delta(parameters, event_dim=1)
