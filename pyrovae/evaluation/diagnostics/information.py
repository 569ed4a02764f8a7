"""How many nats the codes tell of the data, and how far they lie from the prior, all together."""

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
from pyrovae.evaluation.diagnostics.active_units import distribution_of

__all__ = ["Information", "information"]

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

    def __str__(self) -> str:
        low, high = (max(bound, 0.0) for bound in self.marginal_kl)
        most = min(self.upper, self.rate)  # no KL is below nought
        lines = [
            f"{'rate E KL(q(z|x) || p(z))':<34}{self.rate:>10.3f}",
            f"{'  mutual information I(x; z)':<34}{self.lower:>10.3f} to {most:.3f}",
            f"{'  KL(q(z) || p(z))':<34}{low:>10.3f} to {high:.3f}",
            f"nats per datum, each end ± {self.error:.3f}",
        ]
        if self.distinct - self.lower < 0.5:  # a limit of the data's number, not of the code
            lines.append(
                f"the lower bound is near log of the number of data, {self.distinct:.2f}, which it cannot "
                f"exceed: take more"
            )
        return "\n".join(lines)


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
            q, p = (distribution_of(trace, site) for trace in (guide_trace, model_trace))
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
