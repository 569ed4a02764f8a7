"""What the codes do: which dimensions tell anything about the data, and how many nats in all."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from pyro import poutine
from torch import Tensor

from pyrovae.batching import Data, batches
from pyrovae.programs import Program, mode, modules_of, plain_errors, traces
from pyrovae.reductions import check_count
from pyrovae.streams import stream

__all__ = ["Information", "active_units", "code_variances", "information"]

BATCH = 512
PAIRS_AT_ONCE = 2**18
"""Codes times data whose densities are computed at once."""


class Information(NamedTuple):
    """What a code says of its datum, in nats, means over data.

    Attributes:
        rate: E KL(q(z | x) || p(z)).
        lower: A lower bound on the mutual information I(x; z), at most log of the number of data.
        upper: An upper bound.
        error: Standard error of the three by the draws and the choice of data, the largest.
        distinct: Log of the number of data, which the lower bound cannot exceed.
    """

    rate: float
    lower: float
    upper: float
    error: float
    distinct: float

    @property
    def marginal_kl(self) -> tuple[float, float]:
        """Bounds on KL(q(z) || p(z)), of the codes of all data together: the rate less I(x; z)."""
        return self.rate - self.upper, self.rate - self.lower


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
            q = _distribution(poutine.trace(guide).get_trace(*batch), site)
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


@torch.no_grad()
def information(
    model: Program, guide: Program, data: Data, *, site: str = "z", num_samples: int = 4, seed: int = 0
) -> Information:
    r"""Mutual information of data and code, between two bounds, and with it how far q(z) is from the prior.

    .. math:: E \log \frac{q(z_i \mid x_i)}{\frac1N \sum_j q(z_i \mid x_j)} \;\le\; I(x; z) \;\le\;
        E \log \frac{q(z_i \mid x_i)}{\frac1{N - 1} \sum_{j \ne i} q(z_i \mid x_j)}, \qquad
        E \, KL(q(z \mid x) \,\|\, p(z)) = I(x; z) + KL(q(z) \,\|\, p(z))

    Where the code tells every datum from all others the lower bound stops at log N, and the upper one may be
    far above: then more data are needed, and the two say so.

    Args:
        model: Pyro program of p(x, z).
        guide: Pyro program of q(z | x), with one latent site and the data plate at dim -1.
        data: Of both; N rows, whose densities are computed N times N.
        site: The latent's name.
        num_samples: Codes drawn of each datum.
        seed: Of the draws.

    Raises:
        ValueError: The guide has no such site; fewer than 2 rows.

    References:
        Hoffman and Johnson, ELBO Surgery, 2016; Poole et al., On Variational Bounds of Mutual
        Information, 2019, sections 2.1 and 2.2. arXiv:1905.06922

    Example:
        >>> from pyrovae.testing import LinearGaussian
        >>> oracle = LinearGaussian(torch.ones(1, 1), noise=1.0)  # I = log(2) / 2, and q(z) is the prior
        >>> found = information(oracle.model, oracle.guide, oracle.sample(500))
        >>> found.lower - 0.1 < 0.5 * math.log(2) < found.upper + 0.1
        True
    """
    check_count("information: num_samples", num_samples)
    guides, codes, own, log_prior = [], [], [], []
    with mode(modules_of(model, guide), training=False), stream("information", seed), plain_errors():
        for batch in batches(data, BATCH, "information", seed):
            guide_trace, model_trace = traces(model, guide, batch, {})
            q, p = (_distribution(trace, site) for trace in (guide_trace, model_trace))
            drawn = q.sample((num_samples,))
            guides.append(q)
            codes.append(drawn)
            own.append(q.log_prob(drawn).double())
            log_prior.append(p.log_prob(drawn).double())
    z, log_q, rate = torch.cat(codes, 1), torch.cat(own, 1), torch.cat(own, 1) - torch.cat(log_prior, 1)
    rows = z.shape[1]
    if rows < 2:
        raise ValueError("information: 1 row tells nothing of others: at least 2 are needed")
    others = torch.stack([_log_sum_of_others(guides, each) for each in z])
    lower = log_q - torch.logaddexp(others, log_q) + math.log(rows)
    upper = log_q - others + math.log(rows - 1)
    errors = [values.mean(0).std() / rows**0.5 for values in (rate, lower, upper)]
    error = torch.stack(errors).max().item()
    return Information(rate.mean().item(), lower.mean().item(), upper.mean().item(), error, math.log(rows))


def _distribution(trace: Any, site: str) -> Any:
    if site not in trace.nodes:
        raise ValueError(f"the guide has no site '{site}': name its latent with site=")
    return trace.nodes[site]["fn"]


def _log_sum_of_others(guides: list[Any], codes: Tensor) -> Tensor:
    """Log of the sum, over all data but a code's own, of the code's density: ``[rows]``."""
    found = []
    for start in range(0, len(codes), max(PAIRS_AT_ONCE // BATCH, 1)):
        some = codes[start : start + max(PAIRS_AT_ONCE // BATCH, 1)]
        density = torch.cat([q.log_prob(some[:, None]).double() for q in guides], -1)
        mine = torch.arange(start, start + len(some))
        density[torch.arange(len(some)), mine] = -torch.inf
        found.append(density.logsumexp(-1))
    return torch.cat(found)
