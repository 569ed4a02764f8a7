r"""Terms that shape a bound in training, and schedules for their weights.

An objective takes them as ``ELBO(terms=[kl_weight(warmup(1000)), free_bits(0.05)])``, and adds them outside
any logarithm. They change the loss alone: the history's ELBO, validation and evaluation are the model's.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from pyrovae.core.checks import check_positive
from pyrovae.core.clock import Clock
from pyrovae.core.programs import Site, log_density
from pyrovae.core.scoring import by_dimension
from pyrovae.objectives.draws import Draws

__all__ = ["capacity", "cyclical", "free_bits", "kl_weight", "mmd", "total_correlation", "warmup"]

FACTORISE = "use a factorised guide and prior, or free_bits(per='site')"

Schedule = Callable[[Clock], float]
Term = Callable[[Draws, Clock], Tensor]
"""What is added to the bound at a time of training: ``[S, batch]``, or one number for the whole batch, for
which draws need gradients."""


def warmup(length: float, *, unit: str = "steps", start: float = 0.0, end: float = 1.0) -> Schedule:
    """A weight that rises linearly, and then stays.

    Args:
        length: Length of the rise, positive.
        unit: "steps", or "epochs" of :func:`pyrovae.fit`.
        start: First value.
        end: Last value.

    References:
        Bowman et al., Generating Sentences from a Continuous Space, 2016. arXiv:1511.06349;
        Sonderby et al., Ladder Variational Autoencoders, 2016. arXiv:1602.02282

    Example:
        >>> [warmup(4)(Clock(step)) for step in (0, 1, 4, 9)]
        [0.0, 0.25, 1.0, 1.0]
    """
    _check_schedule("warmup: length", length, unit)
    return lambda clock: start + (end - start) * min(_time(clock, unit) / length, 1.0)


def cyclical(period: float, *, unit: str = "steps", rising: float = 0.5, end: float = 1.0) -> Schedule:
    """A weight that rises from zero, stays, and starts again.

    Args:
        period: Length of a cycle, positive.
        unit: "steps", or "epochs" of :func:`pyrovae.fit`.
        rising: Part of the cycle in which it rises, within (0, 1].
        end: Value that it rises to.

    References:
        Fu et al., Cyclical Annealing Schedule, 2019. arXiv:1903.10145

    Example:
        >>> [cyclical(4)(Clock(step)) for step in (0, 1, 2, 3, 4)]
        [0.0, 0.5, 1.0, 1.0, 0.0]
    """
    _check_schedule("cyclical: period", period, unit)
    if not 0 < rising <= 1:
        raise ValueError(f"cyclical: rising must be within (0, 1], got {rising:g}")
    return lambda clock: end * min(_time(clock, unit) % period / (rising * period), 1.0)


def kl_weight(weight: float | Schedule) -> Term:
    r"""Weight the KL from guide to prior by beta.

    .. math:: E_q[\log p(x \mid z)] - \beta \, KL(q(z \mid x) \,\|\, p(z))

    Args:
        weight: beta, or a schedule of it.

    References:
        Higgins et al., beta-VAE, 2017.

    Example:
        >>> from pyrovae.objectives import ELBO
        >>> beta_vae, warmed = ELBO(terms=[kl_weight(4.0)]), ELBO(terms=[kl_weight(warmup(500))])
    """
    _check_weight("kl_weight", weight)

    def term(drawn: Draws, clock: Clock) -> Tensor:
        return (1 - _at(weight, clock)) * (drawn.log_q - drawn.log_prior)

    return term


def free_bits(nats: float, *, per: str | int = "dimension") -> Term:
    r"""Do not penalise the first nats of each dimension, group or site, on average over the batch.

    .. math:: \sum_j \max\big(\lambda, \tfrac1B \sum_i KL_{ij}\big) \quad \text{in place of} \quad
        \sum_j \tfrac1B \sum_i KL_{ij}

    Args:
        nats: lambda.
        per: "dimension", for guides and priors of independent dimensions; the number of dimensions of a
            group, such as a feature map; or "site".

    Raises:
        ValueError: ``nats`` not positive; another ``per``; at the first step, dimensions that are not
            independent, or do not fill whole groups.

    References:
        Kingma et al., Improved Variational Inference with Inverse Autoregressive Flow, 2016, C.8.
        arXiv:1606.04934

    Example:
        >>> from pyrovae.objectives import ELBO
        >>> import pyrovae as pv
        >>> from pyrovae import guides, likelihoods, networks, priors
        >>> q, p = guides.Normal(networks.MLP(9, 4)), likelihoods.Bernoulli(networks.MLP(2, 9))
        >>> vae, x = pv.VAE(priors.StandardNormal(2), p, q), torch.eye(9)
        >>> plain, freed = ELBO(), ELBO(terms=[free_bits(9.0)])  # above the KL: 9 nats a dimension
        >>> freed.loss(vae.model, vae.guide, x) > plain.loss(vae.model, vae.guide, x)
        True
    """
    check_positive("free_bits: nats", nats)
    if per not in ("dimension", "site") and (isinstance(per, str) or per < 1):
        raise ValueError(f"free_bits: per must be 'dimension', 'site' or a number of dimensions, got {per!r}")
    of_site = _kl_of_site if per == "site" else _kl_by_dimension
    size = per if isinstance(per, int) else 1

    def term(drawn: Draws, clock: Clock) -> Tensor:
        means = [of_site(drawn, *pair).mean((0, 1)) for pair in drawn.latents()]
        uneven = [len(each) for each in means if len(each) % size]
        if uneven:
            raise ValueError(f"free_bits: {uneven[0]} dimensions make no groups of {size}: use another per")
        groups = torch.cat([each.unflatten(0, (-1, size)).sum(1) for each in means])
        return -(nats - groups).relu().sum() * drawn.log_q.shape[1]

    return term


def capacity(target: float | Schedule, *, weight: float) -> Term:
    r"""Penalise the distance of the KL from a target.

    .. math:: E_q[\log p(x \mid z)] - \gamma \, |KL - C|, \qquad KL \text{ averaged over the batch}

    Args:
        target: C, in nats per datum, or a schedule of it.
        weight: gamma.

    References:
        Burgess et al., Understanding Disentangling in beta-VAE, 2018. arXiv:1804.03599

    Example:
        >>> from pyrovae.objectives import ELBO
        >>> loss = ELBO(terms=[capacity(warmup(1000, end=20.0), weight=10.0)])
    """
    _check_weight("capacity: target", target)
    check_positive("capacity: weight", weight)

    def term(drawn: Draws, clock: Clock) -> Tensor:
        kl = _kl(drawn)
        return (kl.mean() - weight * (kl.mean() - _at(target, clock)).abs()) * len(kl)

    return term


def total_correlation(weight: float | Schedule, *, num_data: int) -> Term:
    r"""Weight one of the KL's three parts, the total correlation of the codes.

    .. math:: KL = I(x; z) + \underbrace{KL\Big(q(z) \,\Big\|\, \prod_j q(z_j)\Big)}_{\text{total
        correlation}} + \sum_j KL(q(z_j) \,\|\, p(z_j))

    The density of the aggregate posterior is estimated from the batch by minibatch-weighted sampling.

    Args:
        weight: Weight of the total correlation, or a schedule of it; 1 changes nothing.
        num_data: Rows of the training data, N.

    Raises:
        ValueError: At the first step, dimensions of the guide that are not independent, or several sites.

    References:
        Chen et al., Isolating Sources of Disentanglement in VAEs, 2018. arXiv:1802.04942
    """
    _check_weight("total_correlation", weight)

    def term(drawn: Draws, clock: Clock) -> Tensor:
        site = _only(drawn, "total_correlation")
        z = site["value"]
        if len(drawn.log_q) != 1:
            raise ValueError("total_correlation: takes one draw per datum: use num_particles=1")
        if z.dim() != 2 or isinstance(site["mask"], Tensor):
            raise ValueError(
                f"total_correlation: site '{site['name']}', of shape {tuple(z.shape)}, is not a vector for "
                f"each datum, or masked"
            )
        each = by_dimension(site, z[:, None], "total_correlation", FACTORISE).double()
        log_norm = math.log(len(z) * num_data)
        joint = each.sum(-1).logsumexp(1) - log_norm
        apart = (each.logsumexp(1) - log_norm).sum(-1)
        return (1 - _at(weight, clock)) * (joint - apart).sum()

    return term


def mmd(weight: float) -> Term:
    r"""Penalise the maximum mean discrepancy between the codes of the batch and the prior.

    .. math:: -\lambda B \, \big( E[k(z, z')] + E[k(u, u')] - 2 E[k(z, u)] \big), \qquad
        k(z, u) = \sum_c \frac{2 d c}{2 d c + \lVert z - u \rVert^2}

    with codes z, draws u of the prior, and inverse multiquadratic kernels of seven widths c. Together with
    ``kl_weight(1 - a)`` this is InfoVAE; with ``kl_weight(0)``, a Wasserstein autoencoder.

    Args:
        weight: lambda, in nats per datum.

    References:
        Zhao et al., InfoVAE, 2019. arXiv:1706.02262; Tolstikhin et al., Wasserstein Auto-Encoders,
        2018. arXiv:1711.01558
    """
    check_positive("mmd: weight", weight)

    def term(drawn: Draws, clock: Clock) -> Tensor:
        total, rows = drawn.log_q.new_zeros(()), drawn.log_q.shape[1]
        for guide, prior in drawn.latents():
            if isinstance(guide["mask"], Tensor):
                raise ValueError(f"mmd: site '{guide['name']}' is masked, and its codes cannot be left out")
            with torch.no_grad():
                other = prior["fn"].sample()
            codes, draws = (
                drawn.laid_out(value, guide["fn"].event_dim)[0].flatten(1)
                for value in (guide["value"], other)
            )
            if rows > 1:  # one code is no distribution
                total = total + _discrepancy(codes, draws).double()
        return -weight * rows * total

    return term


def _discrepancy(a: Tensor, b: Tensor) -> Tensor:
    def kernel(first: Tensor, second: Tensor) -> Tensor:
        square = torch.cdist(first, second).square()
        widths = [2 * a.shape[1] * c for c in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)]
        return sum((width / (width + square) for width in widths), torch.zeros_like(square))

    def apart(values: Tensor) -> Tensor:
        n = len(values)
        return (kernel(values, values).sum() - 7 * n) / (n * (n - 1))

    return apart(a) + apart(b) - 2 * kernel(a, b).mean()


def _kl(drawn: Draws) -> Tensor:
    """Log q - log p(z), averaged over draws: ``[batch]``."""
    return (drawn.log_q - drawn.log_prior).mean(0)


def _kl_of_site(drawn: Draws, guide: Site, prior: Site) -> Tensor:
    """Log q - log p of one site: ``[S, batch, 1]``."""
    parts = [drawn.laid_out(log_density({**site, "value": guide["value"]}), 0) for site in (guide, prior)]
    return (parts[0] - parts[1]).double().sum(-2)


def _kl_by_dimension(drawn: Draws, guide: Site, prior: Site) -> Tensor:
    """Log q - log p of each dimension, in inner plates too: ``[S, batch, dimensions]``."""
    parts = [
        drawn.laid_out(
            scale_and_mask(
                by_dimension(site, guide["value"], "free_bits", FACTORISE),
                mask=site["mask"][..., None] if isinstance(site["mask"], Tensor) else site["mask"],
            ),
            1,
        )
        for site in (guide, prior)
    ]
    return (parts[0] - parts[1]).double().flatten(2)


def _only(drawn: Draws, owner: str) -> Site:
    sites = [guide for guide, _ in drawn.latents()]
    if len(sites) != 1:
        raise ValueError(f"{owner}: the guide has {len(sites)} latent sites, expected one")
    return sites[0]


def _at(value: float | Schedule, clock: Clock) -> float:
    return clock.at(value) if callable(value) else value


def _time(clock: Clock, unit: str) -> float:
    return clock.step if unit == "steps" else clock.epoch


def _check_schedule(name: str, length: float, unit: str) -> None:
    check_positive(name, length)
    if unit not in ("steps", "epochs"):
        raise ValueError(f"{name.split(':')[0]}: unit must be 'steps' or 'epochs', got '{unit}'")


def _check_weight(name: str, weight: float | Schedule) -> None:
    if not callable(weight) and not 0 <= weight < math.inf:
        raise ValueError(f"{name} must be at least 0 and finite, got {weight:g}")
