"""Latent space as the page shows it: where the data are, which two axes to look along, how far to go."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyrovae.core.random import stream
from pyrovae.core.supports import kind_of
from pyrovae.core.wrap import as_pyro, support_of
from pyrovae.data.split import Split
from pyrovae.evaluation.diagnostics.active_units import ACTIVE
from pyrovae.evaluation.diagnostics.codes import principal_axes
from pyrovae.models.vae import VAE

__all__ = ["Moments", "Space", "moments", "space_of"]

ROWS, BATCH = 600, 200
"""Test data whose codes are shown, and how many are encoded at once."""

DRAWS = 1000
"""From the prior, for how far the sliders go, and of a distribution without a mean in closed form."""


class Moments(NamedTuple):
    """Mean and standard deviation of a distribution, each with its event flattened, and whether by draws."""

    mean: Tensor
    scale: Tensor
    drawn: bool


class Space(NamedTuple):
    """Of the latents.

    Attributes:
        kind: What they are: "real values", or something that no straight line leads through.
        rows: ``[n]``, test data that are shown.
        codes: ``[n, d]``, their means of q(z | x).
        variances: ``[d]``, of the codes, by which the dimensions are ordered.
        low: ``[d]``, where a slider starts.
        high: ``[d]``, where it ends.
        centre: ``[d]``, what the plane is through.
        axes: ``[2, d]``, orthonormal: z[0] and z[1] where there are no more, else the first two principal
            axes of the codes; the second is nought where there is one dimension, or one datum.
        shares: ``[2]``, of the codes' variance along each axis.
    """

    kind: str
    rows: Tensor
    codes: Tensor
    variances: Tensor
    low: Tensor
    high: Tensor
    centre: Tensor
    axes: Tensor
    shares: Tensor

    @property
    def active(self) -> int:
        """Dimensions that tell something about the data."""
        return int((self.variances > ACTIVE).sum())


@torch.no_grad()
def space_of(vae: VAE, test: Split) -> Space:
    """Encode some of the test data, spaced evenly, and look where their codes are."""
    rows = torch.linspace(0, len(test) - 1, min(ROWS, len(test))).round().long()
    codes = torch.cat([moments(vae.encode(test[some])).mean for some in rows.split(BATCH)])
    prior = as_pyro(vae.prior())
    with stream("explore, how far the prior goes"):
        draws = prior.sample((DRAWS,)).reshape(DRAWS, -1).to(codes.dtype)
    seen = torch.cat([draws, codes])
    support = support_of(prior)
    return Space(
        kind="real values" if support is None else kind_of(support),
        rows=rows,
        codes=codes,
        variances=codes.var(0, correction=0),
        low=seen.amin(0),
        high=seen.amax(0),
        **_plane(codes),
    )


def _plane(codes: Tensor) -> dict[str, Tensor]:
    dim = codes.shape[1]
    if dim <= 2:
        centre, axes = codes.new_zeros(dim), torch.eye(2, dim, dtype=codes.dtype)
    else:
        centre, axes = codes.mean(0), principal_axes(codes)[0]
    along = ((codes - centre) @ axes.T).var(0, correction=0)
    total = codes.var(0, correction=0).sum().clamp(min=torch.finfo(codes.dtype).tiny)
    return {"centre": centre, "axes": axes, "shares": along / total}


@torch.no_grad()
def moments(distribution: Any) -> Moments:
    """Mean and standard deviation in closed form, or of draws where there is none.

    Example:
        >>> from pyro.distributions import Normal
        >>> moments(Normal(torch.zeros(3), 2.0).to_event(1))
        Moments(mean=tensor([0., 0., 0.]), scale=tensor([2., 2., 2.]), drawn=False)
    """
    distribution = as_pyro(distribution)
    try:
        mean, scale, drawn = distribution.mean, distribution.variance.sqrt(), False
    except (NotImplementedError, AttributeError):
        with stream("explore, moments"):
            draws = distribution.sample((DRAWS,)).to(torch.get_default_dtype())
        mean, scale, drawn = draws.mean(0), draws.std(0), True
    batch = distribution.batch_shape
    return Moments(mean.reshape(*batch, -1), scale.reshape(*batch, -1), drawn)
