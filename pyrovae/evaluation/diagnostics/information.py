"""Mutual information of data and codes, and the KL of the aggregate posterior from the prior."""

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
CODES_AT_ONCE = 512  # scored together, each under the guides of all data


class Information(NamedTuple):
    """Bounds on the mutual information of data and code, in nats per datum.

    Attributes:
        rate: E KL(q(z | x) || p(z)).
        lower: Lower bound on the mutual information I(x; z), at most log of the number of data.
        upper: Upper bound on I(x; z).
        error: Largest of the standard errors of these three, by the draws and the choice of data.
        distinct: Log of the number of data.
    """

    rate: float
    lower: float
    upper: float
    error: float
    distinct: float

    @property
    def marginal_kl(self) -> tuple[float, float]:
        """Bounds on KL(q(z) || p(z)), with q(z) the aggregate posterior: the rate minus I(x; z)."""
        return self.rate - self.upper, self.rate - self.lower

    def __str__(self) -> str:
        low, high = (max(bound, 0.0) for bound in self.marginal_kl)
        most = min(self.upper, self.rate)  # as KL(q(z) || p(z)) is not negative
        lines = [
            f"{'rate E KL(q(z|x) || p(z))':<34}{self.rate:>10.3f}",
            f"{'  mutual information I(x; z)':<34}{self.lower:>10.3f} to {most:.3f}",
            f"{'  KL(q(z) || p(z))':<34}{low:>10.3f} to {high:.3f}",
            f"nats per datum, each end ± {self.error:.3f}",
        ]
        if self.distinct - self.lower < 0.5:
            limit = f"log of the number of data, {self.distinct:.2f}"
            lines.append(f"the lower bound is near {limit}, which it cannot exceed: take more")
        return "\n".join(lines)


@torch.no_grad()
def information(
    model: Program, guide: Program, data: Data, *, site: str = "z", num_samples: int = 4, seed: int = 0
) -> Information:
    r"""Bounds on the mutual information of data and code, and on the KL of q(z) from the prior.

    .. math:: E \log \frac{q(z_i \mid x_i)}{\frac1N \sum_j q(z_i \mid x_j)} \;\le\; I(x; z) \;\le\;
        E \log \frac{q(z_i \mid x_i)}{\frac1{N - 1} \sum_{j \ne i} q(z_i \mid x_j)}, \qquad
        E \, KL(q(z \mid x) \,\|\, p(z)) = I(x; z) + KL(q(z) \,\|\, p(z))

    If codes tell every datum from all others, the lower bound stops at log N, and the upper bound may be far
    above: then more data are needed.

    Args:
        model: Pyro program of p(x, z).
        guide: Pyro program of q(z | x), with one latent site and the data plate at dim -1.
        data: Arguments of both programs; N rows cost N times N densities.
        site: Name of the latent.
        num_samples: Number of codes drawn of each datum.
        seed: Seed of the draws.

    Raises:
        ValueError: The guide has no such site; fewer than 2 rows.

    References:
        Hoffman and Johnson, ELBO Surgery, 2016; Poole et al., On Variational Bounds of Mutual
        Information, 2019, sections 2.1 and 2.2. arXiv:1905.06922

    Example:
        >>> from pyrovae.testing import LinearGaussian
        >>> oracle = LinearGaussian(torch.ones(1, 1), noise=1.0)  # I = log(2) / 2, and q(z) is the prior
        >>> bounds = information(oracle.model, oracle.guide, oracle.sample(500))
        >>> bounds.lower - 0.1 < 0.5 * math.log(2) < bounds.upper + 0.1
        True
    """
    check_count("information: num_samples", num_samples)
    guides, codes, log_qs, log_priors = [], [], [], []
    with mode(modules_of(model, guide), training=False), stream("information", seed), plain_errors():
        for batch in batches(data, BATCH, "information", seed):
            guide_trace, model_trace = traces(model, guide, batch, {})
            q, p = (distribution_of(trace, site) for trace in (guide_trace, model_trace))
            guides.append(q)
            codes.append(q.sample((num_samples,)))
            log_qs.append(q.log_prob(codes[-1]).double())
            log_priors.append(p.log_prob(codes[-1]).double())
    z, log_q = torch.cat(codes, 1), torch.cat(log_qs, 1)
    rate, rows = log_q - torch.cat(log_priors, 1), z.shape[1]
    if rows < 2:
        raise ValueError("information: 1 row tells nothing of others: at least 2 are needed")
    others = torch.stack([_log_sum_of_others(guides, each) for each in z])
    lower = log_q - torch.logaddexp(others, log_q) + math.log(rows)
    upper = log_q - others + math.log(rows - 1)
    error = max((values.mean(0).std() / rows**0.5).item() for values in (rate, lower, upper))
    return Information(rate.mean().item(), lower.mean().item(), upper.mean().item(), error, math.log(rows))


def _log_sum_of_others(guides: list[Any], codes: Tensor) -> Tensor:
    """Log of the sum of q(z | x) over all data but the code's own: ``[rows]``."""
    sums = []
    for start in range(0, len(codes), CODES_AT_ONCE):
        some = codes[start : start + CODES_AT_ONCE]
        log_density = torch.cat([q.log_prob(some[:, None]).double() for q in guides], -1)
        log_density.diagonal(start).fill_(-torch.inf)
        sums.append(log_density.logsumexp(-1))
    return torch.cat(sums)
