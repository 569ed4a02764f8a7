"""Likelihoods of real values, with normal, Laplace or Student's t noise."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor, nn

from pyrovae.core.checks import check_positive
from pyrovae.models import distributions
from pyrovae.models.base import NetLikelihood, Scale, blocks

__all__ = ["Laplace", "Normal", "StudentT"]


class _LocScale(NetLikelihood):
    """A likelihood with a loc from the network, and a scale from the network, fixed or learned."""

    def __init__(
        self, net: nn.Module, *, scale: float | Tensor | None = None, learn_scale: bool = False
    ) -> None:
        super().__init__(net)
        if scale is None and learn_scale:
            raise ValueError(
                f"{self._owner}: learn_scale needs a scale to start from: scale=0.1, or [D] of them"
            )
        self.scale = None if scale is None else Scale(self._owner, scale, learn=learn_scale)

    @staticmethod
    def net_width(features: int, scale: float | None = None) -> int:
        return features if scale is not None else 2 * features

    @property
    def _owner(self) -> str:
        return f"likelihoods.{type(self).__name__}"

    def _loc_and_log_scale(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        if self.scale is None:
            loc, log_variance = blocks(self._owner, parameters, "loc", "log variance")
            return loc, log_variance / 2
        log_scale = self.scale.log_value
        if log_scale.dim() and log_scale.shape != parameters.shape[-1:]:
            raise ValueError(
                f"{self._owner}: {len(log_scale)} scales for {parameters.shape[-1]} features: give the "
                f"network one number for each scale"
            )
        return parameters, log_scale


class Normal(_LocScale):
    r"""Real values with normal noise.

    .. math:: p(x \mid z) = \prod_i \mathcal N(x_i; \mu_i(z), \sigma_i^2)

    ============================================================== ======================================
    ``Normal(net)``                                                the network gives loc and log variance
    ``Normal(net, scale=0.1)``                                     fixed
    ``Normal(net, scale=0.1, learn_scale=True)``                   one learned, which starts at 0.1
    ``Normal(net, scale=torch.full((D,), 0.1), learn_scale=True)`` one learned for each dimension
    ============================================================== ======================================

    A scale from the network may shrink to zero on data that z explains exactly, and the density then has no
    bound: watch for log p(x) that rises without end.

    Args:
        net: Maps ``[..., dim]`` to loc ``[..., D]``, or, where no scale is given, to ``[..., 2 * D]``:
            loc, then log variance, twice the log of the scale.
        scale: sigma, a positive number or ``[D]``.
        learn_scale: Whether the scale is learned, starting at ``scale``.

    Raises:
        ValueError: The scale is not positive; ``learn_scale`` without a scale.

    References:
        Lucas et al., Don't Blame the ELBO!, 2019, for learning one scale. arXiv:1911.02469; Rybkin et
        al., Simple and Effective VAE Training with Calibrated Decoders, 2021. arXiv:2006.13202

    Example:
        >>> import torch
        >>> p = Normal(nn.Linear(2, 8), scale=0.1, learn_scale=True)(torch.randn(5, 2))
        >>> p.batch_shape, p.event_shape
        (torch.Size([5]), torch.Size([8]))
    """

    def given(self, parameters: Tensor) -> dist.TorchDistribution:
        return distributions.Normal(*self._loc_and_log_scale(parameters))


class Laplace(_LocScale):
    r"""Real values with Laplace noise, whose loc is a median and whose tails are heavier.

    .. math:: p(x \mid z) = \prod_i \frac{1}{2 b_i} e^{-|x_i - \mu_i(z)| / b_i}

    Args:
        net: Maps ``[..., dim]`` to loc, or to loc and twice the log of the scale, as for :class:`Normal`.
        scale: b, a positive number or ``[D]``.
        learn_scale: Whether the scale is learned, starting at ``scale``.

    References:
        Koenker and Bassett, Regression Quantiles, 1978, for the median. doi:10.2307/1913643

    Example:
        >>> import torch
        >>> Laplace(nn.Linear(2, 8), scale=0.1)(torch.randn(5, 2)).event_shape
        torch.Size([8])
    """

    def given(self, parameters: Tensor) -> dist.TorchDistribution:
        loc, log_scale = self._loc_and_log_scale(parameters)
        return dist.Laplace(loc, log_scale.exp(), validate_args=False).to_event(1)


class StudentT(_LocScale):
    r"""Real values with Student's t noise: an outlier costs its logarithm, not its square.

    .. math:: p(x \mid z) = \prod_i \mathrm t_\nu\big((x_i - \mu_i(z)) / s_i\big) / s_i

    Args:
        net: Maps ``[..., dim]`` to loc, or to loc and twice the log of the scale, as for :class:`Normal`.
        df: Degrees of freedom, nu, a positive number.
        scale: s, a positive number or ``[D]``.
        learn_scale: Whether the scale is learned, starting at ``scale``.

    References:
        Takahashi et al., Student-t Variational Autoencoder for Robust Density Estimation, 2018,
        doi:10.24963/ijcai.2018/374; Skafte et al., Reliable Training and Estimation of Variance Networks,
        2019. arXiv:1906.03260

    Example:
        >>> import torch
        >>> StudentT(nn.Linear(2, 16), df=3)(torch.randn(5, 2)).event_shape
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
        super().__init__(net, scale=scale, learn_scale=learn_scale)
        check_positive("likelihoods.StudentT: df", df)
        self.df = df

    def given(self, parameters: Tensor) -> dist.TorchDistribution:
        loc, log_scale = self._loc_and_log_scale(parameters)
        df = loc.new_full((), self.df)
        return distributions.StudentT(df, loc, log_scale.exp(), validate_args=False).to_event(1)
