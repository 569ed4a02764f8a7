"""Codes of data beside draws of the prior."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from pyrovae.core.checks import check_count
from pyrovae.core.modules import Program, mode, modules_of
from pyrovae.core.programs import plain_errors, traces
from pyrovae.core.random import stream
from pyrovae.data.batches import batches
from pyrovae.data.rows import Data
from pyrovae.evaluation.diagnostics.active_units import distribution_of, mean_of
from pyrovae.evaluation.diagnostics.kl import dimension_names

__all__ = ["Codes", "codes", "principal_axes"]

BATCH = 512


class Codes(NamedTuple):
    """Codes of n data, ``[n, d]`` each, with events flattened.

    Attributes:
        means: Mean of q(z | x) of each datum.
        draws: One draw of each q(z | x); together, draws of the aggregate posterior.
        prior: As many draws of p(z).
        names: Names of the d dimensions.
    """

    means: Tensor
    draws: Tensor
    prior: Tensor
    names: tuple[str, ...]

    @property
    def apart(self) -> Tensor:
        r"""Kolmogorov-Smirnov distance of each dimension of the draws from the prior's, ``[d]``.

        .. math:: \sup_t | F_q(t) - F_p(t) | \in [0, 1],

        about :math:`1.2 / \sqrt n` for n draws of equal distributions.
        """
        both = torch.cat([self.draws, self.prior]).T.contiguous()
        below = [
            torch.searchsorted(each.T.contiguous().sort(-1).values, both, right=True) / len(each)
            for each in (self.draws, self.prior)
        ]
        return (below[0] - below[1]).abs().amax(-1)

    @property
    def chance(self) -> float:
        r"""Median of the largest of :attr:`apart` for equal distributions of d independent dimensions.

        .. math:: \sqrt{\frac1n \log \frac{2}{1 - 2^{-1/d}}}
        """
        rows, dims = self.draws.shape
        return math.sqrt(math.log(2 / (1 - 2 ** (-1 / dims))) / rows)


@torch.no_grad()
def codes(
    model: Program, guide: Program, data: Data, *, site: str = "z", num_samples: int = 100, seed: int = 0
) -> Codes:
    r"""Codes of data, their means and one draw of each, beside draws of the prior.

    .. math:: z_i \sim q(z \mid x_i), \qquad \frac1n \sum_i q(z \mid x_i) \quad \text{against} \quad p(z)

    If the aggregate posterior differs from the prior, samples of the model have codes that no datum has.
    The prior's draws of a latent that depends on others are given the guide's draws of those.

    Args:
        model: Pyro program of p(x, z).
        guide: Pyro program of q(z | x).
        data: Arguments of both programs; a few hundred rows are enough.
        site: Name of the latent.
        num_samples: Number of draws for the mean of a guide that has none in closed form.
        seed: Seed of the draws.

    Raises:
        ValueError: The guide has no such site.

    References:
        Hoffman and Johnson, ELBO Surgery, 2016; Tomczak and Welling, VAE with a VampPrior, 2018.
        arXiv:1705.07120

    Example:
        >>> from pyrovae.testing import LinearGaussian
        >>> oracle = LinearGaussian(torch.ones(3, 2))
        >>> found = codes(oracle.model, oracle.guide, oracle.sample(500))
        >>> found.names, found.means.shape, bool((found.apart < 0.2).all())
        (('z[0]', 'z[1]'), torch.Size([500, 2]), True)
    """
    check_count("codes: num_samples", num_samples)
    drawn: list[tuple[Any, ...]] = []
    with mode(modules_of(model, guide), training=False), stream("codes", seed), plain_errors():
        for batch in batches(data, BATCH, "codes", seed):
            guide_trace, model_trace = traces(model, guide, batch, {})
            q, p = (distribution_of(trace, site) for trace in (guide_trace, model_trace))
            mean, draw = mean_of(q, num_samples)[0], guide_trace.nodes[site]["value"]
            drawn.append((mean, draw, p.expand((len(batch[0]),)).sample()))
    means, draws, prior = (torch.cat(each).double().cpu() for each in zip(*drawn, strict=True))
    names = tuple(dimension_names(site, means.shape[1:]))
    means, draws, prior = (each.reshape(len(each), -1) for each in (means, draws, prior))
    return Codes(means, draws, prior, names)


def principal_axes(points: Tensor) -> tuple[Tensor, Tensor]:
    """The two main principal axes ``[2, d]`` of points ``[n, d]``, and their shares of the variance ``[2]``.

    The largest weight of an axis is positive. Axes that one point or one dimension lacks are zero.

    Example:
        >>> axes, shares = principal_axes(torch.arange(5.0)[:, None] * torch.tensor([[3.0, 4.0, 0.0]]))
        >>> axes[0], shares.round(decimals=3)
        (tensor([0.6000, 0.8000, 0.0000]), tensor([1., 0.]))
    """
    _, sizes, directions = torch.linalg.svd(points - points.mean(0), full_matrices=False)
    signs = directions.gather(-1, directions.abs().argmax(-1, keepdim=True)).sign()
    shares = sizes.square() / sizes.square().sum().clamp(min=torch.finfo(points.dtype).tiny)
    missing = max(2 - len(sizes), 0)
    return pad(directions * signs, (0, 0, 0, missing))[:2], pad(shares, (0, missing))[:2]
