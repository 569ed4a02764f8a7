"""Draws of p(z | x): those of the guide, resampled by their weights; and what the model says of them."""

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
    """What a site drew, ``[draws, batch, *plates, *event]``, and the names of its plates but the data's."""

    values: Tensor
    plates: tuple[str, ...]


class Resampled(NamedTuple):
    """What :func:`resample` found.

    Attributes:
        log_weights: Of the guide's draws, before resampling: ``[num_samples, batch]`` in nats.
        log_ratio: Log q(z | x) - log p(z) of them.
        latents: By site, draws of p(z | x).
        log_likelihood: By observed site, log p(x | z) of these draws, ``[num_draws, batch]`` in nats, summed
            over plates.
        predictive: By observed site, a draw of p(x | z) for each.
        observed: By observed site, the data: ``[1, batch, ...]``.
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
    r"""Sampling-importance-resampling: draws of the guide, taken again with the odds of their weights.

    .. math:: z_s \sim q(z \mid x), \quad s = 1, \dots, S, \qquad
        P(\text{draw } d \text{ is } z_s) = \bar w_s

    The weights are Pareto-smoothed, :func:`pyrovae.psis`. As S grows the draws become those of p(z | x); of
    few effective draws they are the same few over and over.

    Args:
        model: Pyro program of p(x, z).
        guide: Pyro program of q(z | x).
        args: Arguments of both programs.
        structure: Of the pair.
        num_samples: Draws of the guide for each datum, S.
        num_draws: Draws to take of them, with replacement.
        chunk_size: Draws that the model scores at once.
        predictive: Whether to draw data of p(x | z).

    Raises:
        ValueError: A datum has no weight at all, or its weights are nan.

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
    said = [_ask(model, args, drawn, rows, structure, predictive) for rows in chunks]
    latents = [site for site in sample_sites(drawn) if site["name"] in said[0].latent]
    return Resampled(
        log_weights,
        log_ratio,
        {site["name"]: _values(site, structure) for site in latents},
        _joined([part.log_likelihood for part in said]),
        _joined([part.predictive for part in said]),
        said[0].observed,
    )


class _Said(NamedTuple):
    """What the model says of some of the draws."""

    latent: set[str]
    log_likelihood: dict[str, Values]
    predictive: dict[str, Values]
    observed: dict[str, Values]


def _ask(
    model: Program,
    args: tuple[Any, ...],
    drawn: poutine.Trace,
    rows: slice,
    structure: Structure,
    predictive: bool,
) -> _Said:
    count = rows.stop - rows.start
    sites = {
        site["name"]: site for site in run_on(model, latents_of(drawn, rows), args, {}, structure, count)
    }
    seen = {name: site for name, site in sites.items() if site["is_observed"]}
    data = {name for name, site in seen.items() if not isinstance(site["fn"], Unit)}  # a factor has none
    densities = {name: by_datum(log_density(site), structure) for name, site in seen.items()}
    made = (
        run_on(poutine.uncondition(model), latents_of(drawn, rows), args, {}, structure, count)
        if predictive
        else []
    )
    return _Said(
        set(sites) - set(seen),
        {name: Values(each.expand(rows.stop - rows.start, -1), ()) for name, each in densities.items()},
        {site["name"]: _values(site, structure) for site in made if site["name"] in data},
        {name: _values(seen[name], structure) for name in seen if name in data},
    )


def _joined(parts: list[dict[str, Values]]) -> dict[str, Values]:
    """Chunks of draws, one after the other."""
    return {
        name: Values(torch.cat([part[name].values for part in parts]), plates)
        for name, (_, plates) in parts[0].items()
    }


def _choose(passes: list[poutine.Trace], chosen: Tensor, structure: Structure) -> poutine.Trace:
    """The guide's draws of all passes, those that were chosen, ``[draws, batch]``, in one trace."""
    drawn = poutine.Trace()
    for site in sample_sites(passes[0]):
        if site["is_observed"]:  # a factor of the guide
            continue
        values = torch.cat([cast(Tensor, each.nodes[site["name"]]["value"]) for each in passes])
        index = expand_to_site(chosen, structure, site["fn"].event_dim)
        drawn.add_node(site["name"], **{**site, "value": torch.take_along_dim(values, index, 0)})
    return drawn


def _values(site: Site, structure: Structure) -> Values:
    """A site's value with draws and data in front, and of its other plates those that it is in."""
    value, event = site["value"], site["fn"].event_dim
    depth = -structure.draws_dim
    value = value[(None,) * (depth + event - value.dim())].movedim(depth + structure.dim, 1)
    inner = {frame.dim: frame.name for frame in site["cond_indep_stack"] if frame.vectorized}
    dims = [dim for dim in range(structure.draws_dim + 1, 0) if dim != structure.dim]
    for place, dim in reversed(list(enumerate(dims, 2))):
        if dim not in inner:
            value = value.squeeze(place)
    return Values(value, tuple(inner[dim] for dim in dims if dim in inner))
