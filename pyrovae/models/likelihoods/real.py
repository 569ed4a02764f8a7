"""Likelihoods of real values, which differ in their tails and in whose the scale is."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor, nn

from pyrovae.core.checks import check_positive
from pyrovae.models import distributions
from pyrovae.models.base import Scale, blocks

__all__ = ["Laplace", "Normal", "StudentT"]


class Normal(nn.Module):
    r"""Real values with normal noise.

    .. math:: p(x \mid z) = \prod_i \mathcal N(x_i; \mu_i(z), \sigma_i^2)

    ============================================================== ======================================
    ``Normal(net)``                                                the network gives loc and log variance
    ``Normal(net, scale=0.1)``                                     fixed
    ``Normal(net, scale=0.1, learn_scale=True)``                   one learned, which starts at 0.1
    ``Normal(net, scale=torch.full((D,), 0.1), learn_scale=True)`` one learned for each dimension
    ============================================================== ======================================

    A scale that is the network's may shrink to nothing on data that z explains exactly, and the
    density then has no bound: watch for log p(x) that rises without end.

    Args:
        net: Maps ``[..., dim]`` to loc ``[..., D]``, or, where no scale is given, to ``[..., 2 * D]``:
            loc, then log variance.
        scale: sigma, a positive number or ``[D]``.
        learn_scale: Whether the given scale is where learning starts.

    Raises:
        ValueError: A scale that is not positive; ``learn_scale`` without a scale.

    References:
        Lucas et al., Don't Blame the ELBO!, 2019, for learning one scale. arXiv:1911.02469; Rybkin et
        al., Simple and Effective VAE Training with Calibrated Decoders, 2021. arXiv:2006.13202

    Example:
        >>> import torch
        >>> from pyrovae import networks
        >>> p = Normal(networks.MLP(2, 8), scale=0.1, learn_scale=True)(torch.randn(5, 2))
        >>> p.batch_shape, p.event_shape
        (torch.Size([5]), torch.Size([8]))
    """

    def __init__(
        self, net: nn.Module, *, scale: float | Tensor | None = None, learn_scale: bool = False
    ) -> None:
        super().__init__()
        self.net = net
        self.scale = _scale("likelihoods.Normal", scale, learn_scale)

    @staticmethod
    def net_width(features: int, scale: float | None = None) -> int:
        """How wide the network's output is for so many features of x."""
        return features if scale is not None else 2 * features

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        """p(x | z): batch shape ``[...]``, event shape ``[D]``."""
        return distributions.Normal(*_loc_and_log_scale("likelihoods.Normal", self.net(z), self.scale))


class Laplace(nn.Module):
    r"""Real values with Laplace noise: the median where Normal has the mean, and heavier tails.

    .. math:: p(x \mid z) = \prod_i \frac{1}{2 b_i} e^{-|x_i - \mu_i(z)| / b_i}

    Args:
        net: Maps ``[..., dim]`` to loc ``[..., D]``, or, where no scale is given, to ``[..., 2 * D]``:
            loc, then twice the log of the scale.
        scale: b, a positive number or ``[D]``.
        learn_scale: Whether the given scale is where learning starts.

    Raises:
        ValueError: A scale that is not positive; ``learn_scale`` without a scale.

    References:
        Koenker and Bassett, Regression Quantiles, 1978, for the median's. doi:10.2307/1913643

    Example:
        >>> import torch
        >>> from pyrovae import networks
        >>> Laplace(networks.MLP(2, 8), scale=0.1)(torch.randn(5, 2)).event_shape
        torch.Size([8])
    """

    def __init__(
        self, net: nn.Module, *, scale: float | Tensor | None = None, learn_scale: bool = False
    ) -> None:
        super().__init__()
        self.net = net
        self.scale = _scale("likelihoods.Laplace", scale, learn_scale)

    @staticmethod
    def net_width(features: int, scale: float | None = None) -> int:
        """How wide the network's output is for so many features of x."""
        return features if scale is not None else 2 * features

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        """p(x | z): batch shape ``[...]``, event shape ``[D]``."""
        loc, log_scale = _loc_and_log_scale("likelihoods.Laplace", self.net(z), self.scale)
        return dist.Laplace(loc, log_scale.exp(), validate_args=False).to_event(1)


class StudentT(nn.Module):
    r"""Real values with Student's t noise: an outlier costs its logarithm, not its square.

    .. math:: p(x \mid z) = \prod_i \mathrm t_\nu\big((x_i - \mu_i(z)) / s_i\big) / s_i

    Args:
        net: Maps ``[..., dim]`` to loc ``[..., D]``, or, where no scale is given, to ``[..., 2 * D]``:
            loc, then twice the log of the scale.
        df: Degrees of freedom, nu.
        scale: s, a positive number or ``[D]``.
        learn_scale: Whether the given scale is where learning starts.

    Raises:
        ValueError: ``df`` or a scale that is not positive; ``learn_scale`` without a scale.

    References:
        Takahashi et al., Student-t Variational Autoencoder for Robust Density Estimation, 2018,
        doi:10.24963/ijcai.2018/374; Skafte et al., Reliable Training and Estimation of Variance Networks,
        2019. arXiv:1906.03260

    Example:
        >>> import torch
        >>> from pyrovae import networks
        >>> StudentT(networks.MLP(2, 16), df=3)(torch.randn(5, 2)).event_shape
        torch.Size([8])
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        df: float = 4.0,
        scale: float | Tensor | None = None,
        learn_scale: bool = False,
    ) -> None:
        super().__init__()
        check_positive("likelihoods.StudentT: df", df)
        self.net = net
        self.df = df
        self.scale = _scale("likelihoods.StudentT", scale, learn_scale)

    @staticmethod
    def net_width(features: int, scale: float | None = None) -> int:
        """How wide the network's output is for so many features of x."""
        return features if scale is not None else 2 * features

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        """p(x | z): batch shape ``[...]``, event shape ``[D]``."""
        loc, log_scale = _loc_and_log_scale("likelihoods.StudentT", self.net(z), self.scale)
        df = loc.new_full((), self.df)
        return distributions.StudentT(df, loc, log_scale.exp(), validate_args=False).to_event(1)


def _scale(owner: str, scale: float | Tensor | None, learn: bool) -> Scale | None:
    if scale is not None:
        return Scale(owner, scale, learn=learn)
    if learn:
        raise ValueError(f"{owner}: learn_scale needs a scale to start from: scale=0.1, or [D] of them")
    return None


def _loc_and_log_scale(owner: str, parameters: Tensor, scale: Scale | None) -> tuple[Tensor, Tensor]:
    if scale is None:
        loc, log_variance = blocks(owner, parameters, "loc", "log variance")
        return loc, log_variance / 2
    value = scale.log_value
    if value.dim() and value.shape != parameters.shape[-1:]:
        raise ValueError(
            f"{owner}: {len(value)} scales for {parameters.shape[-1]} features: give the network one "
            f"number for each scale"
        )
    return parameters, value
