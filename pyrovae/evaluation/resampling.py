"""Draws of p(z | x), resampled from the guide's by their weights, and the model's values at them."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from pyro import poutine
from pyro.distributions import Unit
from torch import Tensor

from pyrovae.core.modules import Program
from pyrovae.core.programs import Site, Structure, log_density, sample_sites
from pyrovae.core.scoring import by_datum, expand_to_site, latents_of, run_on
from pyrovae.evaluation.importance import fitting_chunk_size, pass_size, weigh
from pyrovae.evaluation.psis import psis

__all__ = ["Resampled", "Values", "resample"]


class Values(NamedTuple):
    """Values of a site, ``[draws, batch, *plates, *event]``, and the names of its inner plates."""

    values: Tensor
    plates: tuple[str, ...]


class Resampled(NamedTuple):
    """Result of :func:`resample`.

    Attributes:
        log_weights: Log-weights of the guide's draws, before resampling: ``[num_samples, batch]`` in nats.
        log_ratio: Log q(z | x) - log p(z) of these draws.
        latents: Draws of p(z | x) by site.
        log_likelihood: Log p(x | z) by observed site, summed over plates: ``[num_draws, batch]`` in nats.
        predictive: A draw of p(x | z) for each draw, by observed site.
        observed: The data by observed site: ``[1, batch, ...]``.
    """

    log_weights: Tensor
    log_ratio: Tensor
    latents: dict[str, Values]
    log_likelihood: dict[str, Values]
    predictive: dict[str, Values]
    observed: dict[str, Values]


@torch.no_grad()
def resample(
    model: Program,
    guide: Program,
    args: tuple[Any, ...],
    structure: Structure,
    num_samples: int,
    num_draws: int,
    chunk_size: int | None = None,
    predictive: bool = True,
) -> Resampled:
    r"""Sampling-importance-resampling: draws of the guide, drawn again with the odds of their weights.

    .. math:: z_s \sim q(z \mid x), \quad s = 1, \dots, S, \qquad
        P(\text{draw } d \text{ is } z_s) = \bar w_s

    The weights are Pareto-smoothed, :func:`pyrovae.psis`. With large S the draws are of p(z | x); few
    effective draws are repeated many times.

    Args:
        model: Pyro program of p(x, z).
        guide: Pyro program of q(z | x).
        args: Arguments of both programs.
        structure: Structure of the pair.
        num_samples: Draws of the guide per datum, S.
        num_draws: Draws taken of these per datum, with replacement.
        chunk_size: Draws that the model scores at once.
        predictive: Whether to draw data of p(x | z).

    Raises:
        ValueError: All weights of a datum are zero, or one is nan.

    References:
        Rubin, Using the SIR Algorithm to Simulate Posterior Distributions, 1988. Smith and Gelfand, Bayesian
        Statistics without Tears, The American Statistician, 1992.
    """
    if chunk_size is None:
        most = min(pass_size(structure, args), max(num_samples, num_draws))
        chunk_size = fitting_chunk_size(model, guide, args, {}, structure, most)
    passes: list[poutine.Trace] = []

    def recorded(*args: Any, **kwargs: Any) -> None:
        passes.append(poutine.trace(guide).get_trace(*args, **kwargs))

    pieces = list(weigh(model, recorded, args, {}, structure, num_samples, chunk_size))
    log_weights, log_ratio = (torch.cat(parts) for parts in zip(*pieces, strict=True))
    odds = psis(log_weights).exp()
    if odds.isnan().any():
        row = int(odds.isnan().any(0).nonzero()[0])
        raise ValueError(
            f"row {row} of these: its {num_samples:,} draws have no weight, or one that is nan or inf, so "
            f"none can be taken for the posterior's: ask for more num_samples, or mend the guide"
        )
    chosen = torch.multinomial(odds.T, num_draws, replacement=True).T
    drawn = _choose(passes, chosen, structure)
    step = min(chunk_size, pass_size(structure, args))
    chunks = [slice(first, min(first + step, num_draws)) for first in range(0, num_draws, step)]
    parts = [_values_at(model, args, drawn, rows, structure, predictive) for rows in chunks]
    latents = [site for site in sample_sites(drawn) if site["name"] in parts[0].latent]
    return Resampled(
        log_weights,
        log_ratio,
        {site["name"]: _values(site, structure) for site in latents},
        _joined([part.log_likelihood for part in parts]),
        _joined([part.predictive for part in parts]),
        parts[0].observed,
    )


class _Part(NamedTuple):
    """The model's values at some of the draws."""

    latent: set[str]
    log_likelihood: dict[str, Values]
    predictive: dict[str, Values]
    observed: dict[str, Values]


def _values_at(
    model: Program,
    args: tuple[Any, ...],
    drawn: poutine.Trace,
    rows: slice,
    structure: Structure,
    predictive: bool,
) -> _Part:
    latents, count = latents_of(drawn, rows), rows.stop - rows.start
    sites = {site["name"]: site for site in run_on(model, latents, args, {}, structure, count)}
    seen = {name: site for name, site in sites.items() if site["is_observed"]}
    data = {name for name, site in seen.items() if not isinstance(site["fn"], Unit)}  # a factor has none
    densities = {name: by_datum(log_density(site), structure) for name, site in seen.items()}
    made = []
    if predictive:
        made = run_on(poutine.uncondition(model), latents, args, {}, structure, count)
    return _Part(
        set(sites) - set(seen),
        {name: Values(each.expand(count, -1), ()) for name, each in densities.items()},
        {site["name"]: _values(site, structure) for site in made if site["name"] in data},
        {name: _values(seen[name], structure) for name in seen if name in data},
    )


def _joined(parts: list[dict[str, Values]]) -> dict[str, Values]:
    """Chunks of draws, concatenated."""
    return {
        name: Values(torch.cat([part[name].values for part in parts]), plates)
        for name, (_, plates) in parts[0].items()
    }


def _choose(passes: list[poutine.Trace], chosen: Tensor, structure: Structure) -> poutine.Trace:
    """The chosen draws, ``[draws, batch]``, of all the guide's passes in one trace."""
    drawn = poutine.Trace()
    for site in sample_sites(passes[0]):
        if site["is_observed"]:  # a factor of the guide
            continue
        values = torch.cat([cast(Tensor, each.nodes[site["name"]]["value"]) for each in passes])
        index = expand_to_site(chosen, structure, site["fn"].event_dim)
        drawn.add_node(site["name"], **{**site, "value": torch.take_along_dim(values, index, 0)})
    return drawn


def _values(site: Site, structure: Structure) -> Values:
    """A site's value with the dimensions of draws and data first, then those of its other plates."""
    value, event = site["value"], site["fn"].event_dim
    depth = -structure.draws_dim
    value = value[(None,) * (depth + event - value.dim())].movedim(depth + structure.dim, 1)
    inner = {frame.dim: frame.name for frame in site["cond_indep_stack"] if frame.vectorized}
    dims = [dim for dim in range(structure.draws_dim + 1, 0) if dim != structure.dim]
    for place, dim in reversed(list(enumerate(dims, 2))):
        if dim not in inner:
            value = value.squeeze(place)
    return Values(value, tuple(inner[dim] for dim in dims if dim in inner))
