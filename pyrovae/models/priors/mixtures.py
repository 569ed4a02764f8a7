"""Mixture priors: of normals, and of the guide at pseudo-inputs."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae.core.checks import check_count
from pyrovae.core.wrap import as_pyro, support_of
from pyrovae.models import distributions
from pyrovae.models.base import Part, as_module, check_at_least_two, register_value

__all__ = ["GaussianMixture", "VampPrior"]


class GaussianMixture(nn.Module):
    r"""A mixture of diagonal normals; weights, locs and scales are learned.

    .. math:: p(z) = \sum_{k=1}^K \pi_k \, \mathcal N(z; \mu_k, \operatorname{diag} \sigma_k^2)

    Args:
        dim: Width of z, at least 2.
        components: K.
        codes: Codes of data, ``[n, dim]`` with n at least K. Locs start at K of them, drawn at random, and
            scales at the codes' standard deviation over K^(1/dim), the share of each component.
            Without codes locs start at draws from N(0, I) and scales at 1.

    Raises:
        ValueError: No components, a width below 2, or codes of another shape.

    References:
        Dilokthanakul et al., Deep Unsupervised Clustering with Gaussian Mixture VAEs, 2016. arXiv:1611.02648

    Example:
        >>> prior = GaussianMixture(16, 10, codes=torch.randn(500, 16))
        >>> prior().sample((3,)).shape
        torch.Size([3, 16])
    """

    def __init__(self, dim: int, components: int, *, codes: Tensor | None = None) -> None:
        super().__init__()
        check_count("priors.GaussianMixture: components", components)
        check_at_least_two("priors.GaussianMixture: dim", dim)
        locs, log_scales = torch.randn(components, dim), torch.zeros(components, dim)
        if codes is not None:
            if codes.dim() != 2 or codes.shape[1] != dim or len(codes) < components:
                raise ValueError(
                    f"priors.GaussianMixture: codes must be at least {components} rows of {dim}, got shape "
                    f"{tuple(codes.shape)}: encode data first, vae.encode(x).mean"
                )
            locs = codes.detach()[torch.randperm(len(codes))[:components]].clone()
            spread = codes.detach().std(0, correction=0).clamp(min=1e-3)
            log_scales = (spread.log() - math.log(components) / dim).expand(components, dim).clone()
        self.logits = nn.Parameter(torch.zeros(components))
        self.locs = nn.Parameter(locs)
        self.log_scales = nn.Parameter(log_scales)

    def forward(self) -> dist.TorchDistribution:
        """The distribution of one z, event shape ``[dim]``."""
        return distributions.GaussianMixture(self.locs, self.log_scales.exp(), self.logits)


class VampPrior(nn.Module):
    r"""The mixture of the guide's distributions at K pseudo-inputs: an approximate aggregate posterior.

    .. math:: p(z) = \frac1K \sum_{k=1}^K q(z \mid u_k)

    The guide is shared with the model: new weights of the guide change the prior. With ``learn=False`` the
    pseudo-inputs are fixed exemplars, such as training data.

    Args:
        guide: ``guide(u)`` returns q(z | u), batched as u is; the same module as the VAE's guide.
        pseudo_inputs: u, ``[K, *event]``, rows like those of the data; the start of learning.
        learn: Whether the pseudo-inputs are parameters.

    Raises:
        ValueError: No pseudo-inputs, or pseudo-inputs of a shape that the guide refuses.

    References:
        Tomczak and Welling, VAE with a VampPrior, 2018. arXiv:1705.07120; Norouzi et al., Exemplar
        VAE, 2020, for fixed ones. arXiv:2004.04795

    Example:
        >>> from pyrovae import guides
        >>> q = guides.Normal(nn.Linear(784, 2 * 16))
        >>> VampPrior(q, torch.rand(50, 784))().event_shape
        torch.Size([16])
    """

    pseudo_inputs: Tensor

    def __init__(self, guide: Part, pseudo_inputs: Tensor, *, learn: bool = True) -> None:
        super().__init__()
        if pseudo_inputs.dim() < 2 or not len(pseudo_inputs):
            raise ValueError(
                f"VampPrior: pseudo_inputs must be one or more rows of data, [K, *event], got shape "
                f"{tuple(pseudo_inputs.shape)}"
            )
        guide = as_module(guide)
        try:
            with torch.no_grad():
                batch_shape = as_pyro(guide(pseudo_inputs[:2])).batch_shape
        except (ValueError, RuntimeError, TypeError) as error:
            raise ValueError(
                f"VampPrior: the guide refuses pseudo-inputs of shape {tuple(pseudo_inputs.shape)}: "
                f"{' '.join(str(error).split())}"
            ) from error
        if batch_shape != pseudo_inputs[:2].shape[:1]:
            raise ValueError(
                f"VampPrior: the guide gives batch shape {tuple(batch_shape)} for "
                f"{len(pseudo_inputs[:2])} pseudo-inputs, expected one distribution for each"
            )
        self.guide = guide
        register_value(self, "pseudo_inputs", pseudo_inputs.detach().clone(), learn=learn)

    def forward(self) -> dist.TorchDistribution:
        """The distribution of one z, with the event shape of the guide."""
        weights = dist.Categorical(logits=self.pseudo_inputs.new_zeros(len(self.pseudo_inputs)))
        return _Mixture(weights, as_pyro(self.guide(self.pseudo_inputs)), validate_args=False)


class _Mixture(dist.MixtureSameFamily):
    """Pyro's MixtureSameFamily with the support of its components, which MCMC needs."""

    @property
    def support(self) -> Any:
        return support_of(self.component_distribution)
