"""What the codes do: which dimensions tell anything about the data."""

from __future__ import annotations

from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyrovae.batching import Data, batches
from pyrovae.programs import Program, mode, modules_of
from pyrovae.streams import stream

__all__ = ["active_units", "code_variances"]

BATCH = 512


@torch.no_grad()
def code_variances(guide: Program, data: Data, *, site: str = "z", num_samples: int = 100) -> Tensor:
    r"""How much the guide's mean of each dimension varies over the data.

    .. math:: A_j = \operatorname{Var}_x \big( E_{q(z \mid x)}[z_j] \big)

    Args:
        guide: Pyro program of q(z | x), with the data plate outermost at dim -1.
        data: What the guide is called with; see :func:`pyrovae.evaluate`.
        site: The latent's name.
        num_samples: Draws per datum for a guide whose mean is not known in closed form; what they add
            to the variance is taken off, so that it may come out a little below nought.

    Returns:
        ``[*event]``, the variance of each dimension.

    Raises:
        ValueError: The guide has no such site.

    References:
        Burda et al., Importance Weighted Autoencoders, 2016, section 5.1. arXiv:1509.00519

    Example:
        >>> import pyro.distributions as dist
        >>> from pyrovae.vae import Guide
        >>> guide = Guide(lambda x: dist.Normal(x * torch.tensor([2.0, 0.0]), 1.0).to_event(1))
        >>> code_variances(guide, torch.tensor([[1.0, 1.0], [-1.0, 1.0]]))
        tensor([8., 0.], dtype=torch.float64)
    """
    means, noise, modules = [], [], modules_of(guide, guide)
    with mode(modules, training=False), stream("code variances"):
        for batch in batches(data, BATCH, "code variances"):
            trace = poutine.trace(guide).get_trace(*batch)
            if site not in trace.nodes:
                raise ValueError(f"the guide has no site '{site}': name its latent with site=")
            q: Any = trace.nodes[site]["fn"]
            try:
                means.append(q.mean.double())
                noise.append(torch.zeros_like(means[-1]))
            except (NotImplementedError, AttributeError):
                draws = q.sample((num_samples,)).double()
                means.append(draws.mean(0))
                noise.append(draws.var(0) / num_samples)
    return torch.cat(means).var(0) - torch.cat(noise).mean(0)


def active_units(guide: Program, data: Data, *, threshold: float = 0.01, site: str = "z") -> int:
    r"""Dimensions of the code that tell something about the data: those with :math:`A_j` above a threshold.

    Args:
        guide: Pyro program of q(z | x).
        data: What the guide is called with; some hundred rows are enough.
        threshold: Of :func:`code_variances`, in the square of the code's unit.
        site: The latent's name.

    References:
        Burda et al., Importance Weighted Autoencoders, 2016, section 5.1. arXiv:1509.00519

    Example:
        >>> import pyro.distributions as dist
        >>> from pyrovae.vae import Guide
        >>> guide = Guide(lambda x: dist.Normal(x * torch.tensor([2.0, 0.0]), 1.0).to_event(1))
        >>> active_units(guide, torch.tensor([[1.0, 1.0], [-1.0, 1.0]]))
        1
    """
    return int((code_variances(guide, data, site=site) > threshold).sum())
