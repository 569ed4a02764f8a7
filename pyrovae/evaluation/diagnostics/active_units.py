"""Active units: the dimensions of the code whose mean varies over data."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from pyro import poutine
from torch import Tensor

from pyrovae.core.modules import Program, mode, modules_of
from pyrovae.core.random import stream
from pyrovae.data.batches import batches
from pyrovae.data.rows import Data, num_rows

__all__ = [
    "ActiveUnits",
    "active_units",
    "active_units_curve",
    "code_variances",
    "distribution_of",
    "mean_of",
]

BATCH = 512
ACTIVE = 0.01  # the usual threshold, by Burda et al.


class ActiveUnits(NamedTuple):
    """Active units by threshold; printed, a table of the thresholds at which the count changes.

    Attributes:
        thresholds: ``[k]``, in the square of the code's unit.
        counts: ``[k]``, number of dimensions above each threshold.
        variances: ``[d]``, :func:`code_variances`, flattened.
    """

    thresholds: Tensor
    counts: Tensor
    variances: Tensor

    def stretch(self, threshold: float = ACTIVE) -> tuple[float, float]:
        """The range of thresholds, from and to, with the same count as this one."""
        below = self.variances[self.variances <= threshold].tolist()
        above = self.variances[self.variances > threshold].tolist()
        return max([0.0, *below]), min([math.inf, *above])  # an estimate may be below zero

    def __str__(self) -> str:
        low, high = self.stretch()
        count, fine, coarse = (int((self.variances > threshold).sum()) for threshold in (ACTIVE, 0.001, 0.1))
        changes = [0, *((self.counts[1:] != self.counts[:-1]).nonzero()[:, 0] + 1).tolist()]
        of = f" of {len(self.variances):,}"
        return "\n".join(
            [
                f"{'threshold':>12}{'active units':>14}",
                *(f"{self.thresholds[i]:>12.2g}{self.counts[i]:>14,}{of}" for i in changes),
                f"at {ACTIVE:g}: {count:,}, the same from {low:.2g} to {high:.2g}; "
                f"{fine:,} at 0.001 and {coarse:,} at 0.1",
            ]
        )


@torch.no_grad()
def code_variances(guide: Program, data: Data, *, site: str = "z", num_samples: int = 100) -> Tensor:
    r"""Variance over data of the guide's mean, for each dimension of the code.

    .. math:: A_j = \operatorname{Var}_x \big( E_{q(z \mid x)}[z_j] \big)

    Args:
        guide: Pyro program of q(z | x), with the data plate outermost at dim -1.
        data: Arguments of the guide; see :func:`pyrovae.evaluate`.
        site: Name of the latent.
        num_samples: Number of draws per datum for a guide whose mean has no closed form. The variance that
            they add is subtracted, so that the result may be slightly negative.

    Returns:
        ``[*event]``, the variance of each dimension.

    Raises:
        ValueError: The guide has no such site; fewer than two data.

    References:
        Burda et al., Importance Weighted Autoencoders, 2016, section 5.1. arXiv:1509.00519

    Example:
        >>> import pyro.distributions as dist
        >>> from pyrovae.models.vae import Guide
        >>> guide = Guide(lambda x: dist.Normal(x * torch.tensor([2.0, 0.0]), 1.0).to_event(1))
        >>> code_variances(guide, torch.tensor([[1.0, 1.0], [-1.0, 1.0]]))
        tensor([8., 0.], dtype=torch.float64)
    """
    if num_rows(data) < 2:
        raise ValueError("one datum has no variance over data: pass at least two")
    means, noise, modules = [], [], modules_of(guide, guide)
    with mode(modules, training=False), stream("code variances"):
        for batch in batches(data, BATCH, "code variances"):
            q = distribution_of(poutine.trace(guide).get_trace(*batch), site)
            mean, added = mean_of(q, num_samples)
            means.append(mean)
            noise.append(added)
    return torch.cat(means).var(0) - torch.cat(noise).mean(0)


def active_units(guide: Program, data: Data, *, threshold: float = ACTIVE, site: str = "z") -> int:
    r"""Number of dimensions of the code that depend on the data: those with :math:`A_j` above a threshold.

    Args:
        guide: Pyro program of q(z | x).
        data: Arguments of the guide; a few hundred rows are enough.
        threshold: Smallest :func:`code_variances` of an active unit, in the square of the code's unit.
        site: Name of the latent.

    Example:
        >>> import pyro.distributions as dist
        >>> from pyrovae.models.vae import Guide
        >>> guide = Guide(lambda x: dist.Normal(x * torch.tensor([2.0, 0.0]), 1.0).to_event(1))
        >>> active_units(guide, torch.tensor([[1.0, 1.0], [-1.0, 1.0]]))
        1
    """
    return int((code_variances(guide, data, site=site) > threshold).sum())


def active_units_curve(
    guide: Program,
    data: Data,
    *,
    thresholds: Tensor | None = None,
    site: str = "z",
    num_samples: int = 100,
) -> ActiveUnits:
    r"""Active units at a range of thresholds: does the count depend on the usual one, 0.01?

    .. math:: n(t) = \#\{ j : A_j > t \}

    Args:
        guide: Pyro program of q(z | x).
        data: Arguments of the guide; a few hundred rows are enough.
        thresholds: ``[k]``, rising; ten per decade from 1e-4 to 10 by default.
        site: Name of the latent.
        num_samples: Number of draws per datum, as in :func:`code_variances`.

    Example:
        >>> import pyro.distributions as dist
        >>> from pyrovae.models.vae import Guide
        >>> guide = Guide(lambda x: dist.Normal(x * torch.tensor([2.0, 0.0]), 1.0).to_event(1))
        >>> curve = active_units_curve(guide, torch.tensor([[1.0, 1.0], [-1.0, 1.0]]))
        >>> curve.stretch(0.01)
        (0.0, 8.0)
    """
    thresholds = torch.logspace(-4, 1, 51, dtype=torch.float64) if thresholds is None else thresholds
    variances = code_variances(guide, data, site=site, num_samples=num_samples).flatten().cpu()
    thresholds = thresholds.double().cpu()
    return ActiveUnits(thresholds, (variances > thresholds[:, None]).sum(1), variances)


def distribution_of(trace: Any, site: str) -> Any:
    """The distribution of a site of a trace."""
    if site not in trace.nodes:
        raise ValueError(f"the guide has no site '{site}': name its latent with site=")
    return trace.nodes[site]["fn"]


def mean_of(q: Any, num_samples: int) -> tuple[Tensor, Tensor]:
    """The mean of q(z | x), and its Monte Carlo variance if it has no closed form."""
    try:
        return q.mean.double(), torch.zeros_like(q.mean, dtype=torch.float64)
    except (NotImplementedError, AttributeError):
        draws = q.sample((num_samples,)).double()
        return draws.mean(0), draws.var(0) / num_samples
