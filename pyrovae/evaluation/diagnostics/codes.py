"""Where the codes of data lie, and where the prior would have them."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

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
    """Codes of n data, ``[n, d]`` each, of an event of any shape flattened.

    Attributes:
        means: Of q(z | x), one for each datum.
        draws: One of each q(z | x): together they are draws of the aggregate posterior.
        prior: As many draws of p(z).
        names: Of the d dimensions.
    """

    means: Tensor
    draws: Tensor
    prior: Tensor
    names: tuple[str, ...]

    @property
    def apart(self) -> Tensor:
        r"""How far each dimension of the draws is from the prior's, ``[d]``, by Kolmogorov and Smirnov.

        .. math:: \sup_t | F_q(t) - F_p(t) |

        between 0 and 1. Of n draws each it comes to some :math:`1.2 / \sqrt n` where there is no difference.
        """
        both = torch.cat([self.draws, self.prior]).T.contiguous()
        below = [
            torch.searchsorted(each.T.contiguous().sort(-1).values, both, right=True) / len(each)
            for each in (self.draws, self.prior)
        ]
        return (below[0] - below[1]).abs().amax(-1)

    @property
    def chance(self) -> float:
        r"""What the largest of :attr:`apart` comes to where there is no difference: its median.

        .. math:: \sqrt{\frac1n \log \frac{2}{1 - 2^{-1/d}}}

        of dimensions that do not depend on one another: the more there are, the further apart is one of them.
        """
        rows, dims = self.draws.shape
        return math.sqrt(math.log(2 / (1 - 2 ** (-1 / dims))) / rows)


@torch.no_grad()
def codes(
    model: Program, guide: Program, data: Data, *, site: str = "z", num_samples: int = 100, seed: int = 0
) -> Codes:
    r"""Codes of data, the means and a draw of each, beside draws of the prior.

    .. math:: z_i \sim q(z \mid x_i), \qquad \frac1n \sum_i q(z \mid x_i) \quad \text{against} \quad p(z)

    A model whose aggregate posterior lies elsewhere than its prior makes samples of codes that no datum has.
    Of a latent that depends on others, the prior's draws are given those that the guide drew.

    Args:
        model: Pyro program of p(x, z).
        guide: Pyro program of q(z | x).
        data: What both are called with; some hundred rows are enough.
        site: The latent's name.
        num_samples: Draws that make the mean of a guide that has none in closed form.
        seed: Of the draws.

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
    found: list[tuple[Any, Any, Any]] = []
    shape: torch.Size = torch.Size()
    with mode(modules_of(model, guide), training=False), stream("codes", seed), plain_errors():
        for batch in batches(data, BATCH, "codes", seed):
            guide_trace, model_trace = traces(model, guide, batch, {})
            q, p = (distribution_of(trace, site) for trace in (guide_trace, model_trace))
            shape = q.event_shape
            drawn = guide_trace.nodes[site]["value"]
            found.append((mean_of(q, num_samples)[0], drawn, p.expand((len(batch[0]),)).sample()))
    means, draws, prior = (torch.cat(each).double().cpu() for each in zip(*found, strict=True))
    means, draws, prior = (each.reshape(len(each), -1) for each in (means, draws, prior))
    return Codes(means, draws, prior, tuple(dimension_names(site, shape)))


def principal_axes(points: Tensor) -> tuple[Tensor, Tensor]:
    """The two directions in which points vary the most, and the shares of the variance that these have.

    Signs are such that the largest weight of an axis is positive: the same points give the same axes. Where
    there is one point or one dimension, there is no second axis, and it is nought.

    Args:
        points: ``[n, d]``.

    Returns:
        ``[2, d]`` and ``[2]``.

    Example:
        >>> axes, shares = principal_axes(torch.arange(5.0)[:, None] * torch.tensor([[3.0, 4.0, 0.0]]))
        >>> axes[0], shares.round(decimals=3)
        (tensor([0.6000, 0.8000, 0.0000]), tensor([1., 0.]))
    """
    _, sizes, directions = torch.linalg.svd(points - points.mean(0), full_matrices=False)
    axes, shares = points.new_zeros(2, points.shape[1]), points.new_zeros(2)
    found = min(2, len(sizes))
    two = directions[:found]
    axes[:found] = two * two.gather(-1, two.abs().argmax(-1, keepdim=True)).sign()
    squares = sizes.square()
    shares[:found] = squares[:found] / squares.sum().clamp(min=torch.finfo(points.dtype).tiny)
    return axes, shares
