"""Likelihoods of counts: up to a limit, without one, with too many zeros, and of words."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae.core.checks import check_count
from pyrovae.models import distributions
from pyrovae.models.base import NetLikelihood, blocks

__all__ = ["Binomial", "Multinomial", "NegativeBinomial", "Poisson", "ZeroInflatedNegativeBinomial"]


class Binomial(NetLikelihood):
    r"""Counts out of n, such as grey levels out of 255 or reads out of a depth.

    .. math:: p(x \mid z) = \prod_i \binom{n}{x_i} \pi_i^{x_i} (1 - \pi_i)^{n - x_i}, \qquad
        \operatorname{logit} \pi = \mathrm{net}(z)

    Args:
        net: Maps ``[..., dim]`` to logits ``[..., D]``.
        total_count: n.

    References:
        McCullagh and Nelder, Generalized Linear Models, 1989. doi:10.1201/9780203753736

    Example:
        >>> Binomial(nn.Linear(2, 8), total_count=255)(torch.randn(5, 2)).event_shape
        torch.Size([8])
    """

    def __init__(self, net: nn.Module, *, total_count: int) -> None:
        super().__init__(net)
        check_count("likelihoods.Binomial: total_count", total_count)
        self.total_count = total_count

    def given(self, parameters: Tensor) -> dist.TorchDistribution:
        count = parameters.new_full((), self.total_count)
        return distributions.Binomial(count, logits=parameters, validate_args=False).to_event(1)


class Poisson(NetLikelihood):
    r"""Counts without a limit whose variance is their mean.

    .. math:: p(x \mid z) = \prod_i \frac{\lambda_i^{x_i} e^{-\lambda_i}}{x_i!}, \qquad
        \log \lambda = \mathrm{net}(z)

    Args:
        net: Maps ``[..., dim]`` to log rates ``[..., D]``.

    References:
        Gopalan et al., Scalable Recommendation with Poisson Factorization, 2015. arXiv:1311.1704

    Example:
        >>> Poisson(nn.Linear(2, 8))(torch.randn(5, 2)).event_shape
        torch.Size([8])
    """

    def given(self, parameters: Tensor) -> dist.TorchDistribution:
        return distributions.Poisson(parameters).to_event(1)


class NegativeBinomial(NetLikelihood):
    r"""Counts whose variance exceeds their mean: mu + mu^2 / r.

    .. math:: p(x \mid z) = \prod_i \frac{\Gamma(x_i + r_i)}{x_i! \, \Gamma(r_i)}
        \Big(\frac{r_i}{r_i + \mu_i}\Big)^{r_i} \Big(\frac{\mu_i}{r_i + \mu_i}\Big)^{x_i}, \qquad
        \log \mu = \mathrm{net}(z)

    Args:
        net: Maps ``[..., dim]`` to log means ``[..., D]``.
        features: D; the dispersions r are learned, one for each feature, and start at 1.

    References:
        Lopez et al., Deep Generative Modeling for Single-Cell Transcriptomics, 2018.
        doi:10.1038/s41592-018-0229-2

    Example:
        >>> NegativeBinomial(nn.Linear(2, 8), features=8)(torch.randn(5, 2)).event_shape
        torch.Size([8])
    """

    def __init__(self, net: nn.Module, *, features: int) -> None:
        super().__init__(net)
        check_count(f"likelihoods.{type(self).__name__}: features", features)
        self.log_dispersion = nn.Parameter(torch.zeros(features))

    def given(self, parameters: Tensor) -> dist.TorchDistribution:
        count, logits = self._count_and_logits(parameters)
        return distributions.NegativeBinomial(count, logits=logits, validate_args=False).to_event(1)

    def _count_and_logits(self, log_mean: Tensor) -> tuple[Tensor, Tensor]:
        if log_mean.shape[-1] != len(self.log_dispersion):
            raise ValueError(
                f"likelihoods.{type(self).__name__}: {len(self.log_dispersion)} features, and the network "
                f"gives means of {log_mean.shape[-1]}: make the two the same"
            )
        return self.log_dispersion.exp(), log_mean - self.log_dispersion


class ZeroInflatedNegativeBinomial(NegativeBinomial):
    r"""Negative binomial counts of which some were lost and read as zero.

    .. math:: p(x \mid z) = \prod_i \big[ \gamma_i 1_{x_i = 0} +
        (1 - \gamma_i) \, \mathrm{NB}(x_i; \mu_i, r_i) \big], \qquad
        (\log \mu, \operatorname{logit} \gamma) = \mathrm{net}(z)

    Args:
        net: Maps ``[..., dim]`` to ``[..., 2 * D]``: log means, then the logits of loss.
        features: D; the dispersions r are learned, one for each feature, and start at 1.

    References:
        Lopez et al., Deep Generative Modeling for Single-Cell Transcriptomics, 2018.
        doi:10.1038/s41592-018-0229-2

    Example:
        >>> ZeroInflatedNegativeBinomial(nn.Linear(2, 2 * 8), features=8)(torch.randn(5, 2)).event_shape
        torch.Size([8])
    """

    @staticmethod
    def net_width(features: int) -> int:
        return 2 * features

    def given(self, parameters: Tensor) -> dist.TorchDistribution:
        owner = "likelihoods.ZeroInflatedNegativeBinomial"
        log_mean, gate_logits = blocks(owner, parameters, "log mean", "the logit of loss")
        count, logits = self._count_and_logits(log_mean)
        return distributions.ZeroInflatedNegativeBinomial(
            count, logits=logits, gate_logits=gate_logits, validate_args=False
        ).to_event(1)


class Multinomial(NetLikelihood):
    r"""Bags of words: counts over a vocabulary, given the number of words in a row.

    .. math:: p(x \mid z, n) = \frac{n!}{\prod_i x_i!} \prod_i \pi_i^{x_i}, \qquad
        \operatorname{softmax}^{-1} \pi = \mathrm{net}(z), \quad n = \sum_i x_i

    Args:
        net: Maps ``[..., dim]`` to logits ``[..., vocabulary]``.
        total_count: Words in a generated row; rows of data have totals of their own.

    References:
        Miao et al., Neural Variational Inference for Text Processing, 2016. arXiv:1511.06038; Liang
        et al., Variational Autoencoders for Collaborative Filtering, 2018. arXiv:1802.05814

    Example:
        >>> Multinomial(nn.Linear(2, 1000), total_count=50)(torch.randn(5, 2)).sample().sum(-1)
        tensor([50., 50., 50., 50., 50.])
    """

    def __init__(self, net: nn.Module, *, total_count: int = 100) -> None:
        super().__init__(net)
        check_count("likelihoods.Multinomial: total_count", total_count)
        self.total_count = total_count

    def given(self, parameters: Tensor) -> dist.TorchDistribution:
        return distributions.Words(parameters, self.total_count)
