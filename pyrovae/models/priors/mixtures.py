"""Mixture priors: of free normals, and of the guide at pseudo-inputs."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae.core.checks import check_count
from pyrovae.core.context import captured
from pyrovae.core.wrap import Shape
from pyrovae.models.base import Part, as_module
from pyrovae.models.distributions import GaussianMixture as MixtureOfNormals
from pyrovae.models.distributions import as_pyro, support_of

__all__ = ["GaussianMixture", "VampPrior"]


class GaussianMixture(nn.Module):
    r"""A mixture of diagonal normals; weights, locs and scales are learned.

    .. math:: p(z) = \sum_{k=1}^K \pi_k \, \mathcal N(z; \mu_k, \operatorname{diag} \sigma_k^2)

    Args:
        dim: Width of z, at least 2.
        components: K.
        codes: ``[n, dim]``, n at least K: codes of data. Locs start at K of them, drawn at random,
            and scales at the codes' own spread over K^(1/dim), what each component has to cover.
            Without them locs start at draws from N(0, I) and scales at 1.

    Raises:
        ValueError: No components, a width below 2, or codes of another shape.

    References:
        Dilokthanakul et al., Deep Unsupervised Clustering with Gaussian Mixture VAEs, 2016.
        arXiv:1611.02648

    Example:
        >>> prior = GaussianMixture(16, 10, codes=torch.randn(500, 16))
        >>> prior().sample((3,)).shape
        torch.Size([3, 16])
    """

    def __init__(self, dim: int, components: int, *, codes: Tensor | None = None) -> None:
        super().__init__()
        check_count("priors.GaussianMixture: components", components)
        if dim < 2:
            raise ValueError(f"priors.GaussianMixture: dim must be at least 2, got {dim}")
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
        return MixtureOfNormals(self.locs, self.log_scales.exp(), self.logits)


class VampPrior(nn.Module):
    r"""The mixture of what the guide says of K pseudo-inputs: an approximate aggregate posterior.

    .. math:: p(z) = \frac1K \sum_{k=1}^K q(z \mid u_k)

    The guide is the model's own, shared: swapping the guide's weights changes the prior. With
    ``learn=False`` the pseudo-inputs are fixed exemplars, such as training data.

    Args:
        guide: ``guide(u)`` returns q(z | u), batched as u is; the very module of the VAE's guide.
        pseudo_inputs: u, ``[K, *event]``, as data are; where learning starts.
        learn: Whether the pseudo-inputs are parameters.

    Raises:
        ValueError: No pseudo-inputs, or of a shape that the guide refuses.

    References:
        Tomczak and Welling, VAE with a VampPrior, 2018. arXiv:1705.07120; Norouzi et al., Exemplar
        VAE, 2020, for fixed ones. arXiv:2004.04795

    Example:
        >>> from pyrovae import guides, networks
        >>> q = guides.Normal(networks.MLP(784, 2 * 16))
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
        if learn:
            self.pseudo_inputs = nn.Parameter(pseudo_inputs.detach().clone())
        else:
            self.register_buffer("pseudo_inputs", pseudo_inputs.detach().clone())

    def forward(self) -> dist.TorchDistribution:
        """The distribution of one z, event shape as the guide's."""
        weights = dist.Categorical(logits=self.pseudo_inputs.new_zeros(len(self.pseudo_inputs)))
        return _Mixture(weights, as_pyro(self.guide(self.pseudo_inputs)))


AT_ONCE = 2**18
"""Numbers of a chunk of whitened draws, which stays within a processor's caches."""

ROWS = 64
"""Draws of a chunk below which a product gains nothing over torch's way."""


class _Mixture(dist.MixtureSameFamily):
    """Pyro's, over what its components are over, which MCMC asks for, and soon scored where they are normal.

    Args:
        weights: One mixture, of equal weights.
        components: Batch shape ``[K]``.
    """

    def __init__(self, weights: Any, components: Any) -> None:
        self.components = components
        super().__init__(weights, components, validate_args=False)

    def expand(self, batch_shape: Shape, _instance: Any = None) -> _Mixture:
        new = self._get_checked_instance(_Mixture, _instance)
        new.components = self.components
        return super().expand(batch_shape, new)

    @property
    def support(self) -> Any:
        return support_of(self.component_distribution)

    def log_prob(self, value: Tensor) -> Tensor:
        normal = type(self.components) is dist.MultivariateNormal
        few = normal and ROWS * self.components.loc.numel() <= AT_ONCE
        if not few or value.shape[-1:] != self.event_shape or value.device.type == "mps":
            return super().log_prob(value)
        each = _log_densities(self.components, value)
        found = each.logsumexp(-1) - math.log(each.shape[-1])
        return found.expand(torch.broadcast_shapes(found.shape, self.batch_shape))


def _log_densities(normals: dist.MultivariateNormal, z: Tensor) -> Tensor:
    r"""The log densities log N(z; mu_k, L_k L_k^T) for each k, ``[*z.shape[:-1], K]``.

    .. math:: -\frac12 \lVert L_k^{-1} z - L_k^{-1} \mu_k \rVert^2 - \log \det L_k - \frac d2 \log 2 \pi

    One product of matrices whitens z for all k, where torch would copy the differences z - mu_k about: in
    float64, since a difference of products has fewer digits than a product of differences.
    """
    count, dim = normals.loc.shape
    scale_tril, precise = normals.scale_tril.double(), torch.eye(dim, dtype=torch.double, device=z.device)
    whitening = torch.linalg.solve_triangular(scale_tril, precise, upper=False)
    shift = -(whitening @ normals.loc.double()[..., None]).squeeze(-1).T.reshape(-1)
    columns = whitening.movedim(0, 1).reshape(-1, dim).T
    flat = z.reshape(-1, dim)
    at_once = max(len(flat), 1) if captured.get() else AT_ONCE // (count * dim)  # a compiler cuts by itself
    squares = [
        torch.addmm(shift, rows.double(), columns).unflatten(-1, (dim, count)).square().sum(-2)
        for rows in flat.split(at_once)
    ]
    log_dets = scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    found = -torch.cat(squares) / 2 - (log_dets + dim / 2 * math.log(2 * math.pi))
    return found.reshape(*z.shape[:-1], count).to(torch.result_type(z, normals.loc))
