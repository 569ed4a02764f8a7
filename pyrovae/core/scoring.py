"""Run programs on many draws at once, and sum their log densities by datum and by dimension."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions.torch_distribution import ExpandedDistribution
from torch import Tensor
from torch.distributions import Independent

from pyrovae.core.modules import Program
from pyrovae.core.programs import Site, Structure, log_density, sample_sites
from pyrovae.core.wrap import family_of

__all__ = [
    "Latents",
    "by_datum",
    "by_dimension",
    "expand_to_site",
    "filled",
    "latents_of",
    "run_on",
    "sum_by_datum",
    "trace_draws",
]

Latents = dict[str, tuple[Tensor, dict[str, Any]]]
"""By site, the values ``[draws, ...]`` and the ``infer`` options of the program that drew them."""


def trace_draws(
    program: Program,
    draws: int | None,
    structure: Structure,
    args: tuple[Any, ...],
    kwargs: dict[str, Any] | None = None,
    *,
    known: poutine.Trace | None = None,
    plate: str = "_draws",
) -> poutine.Trace:
    """Trace of a program in a plate of draws, with the latents of a known trace; None draws make no plate."""
    if known is not None:
        program = poutine.replay(program, trace=known)
    inside = nullcontext() if draws is None else pyro.plate(plate, draws, dim=structure.draws_dim)
    with inside:
        return poutine.trace(program).get_trace(*args, **(kwargs or {}))


def latents_of(drawn: poutine.Trace, rows: slice) -> Latents:
    """Some of a guide's draws of every site, without its observed sites, which are factors."""
    sites = [site for site in sample_sites(drawn) if not site["is_observed"]]
    return {site["name"]: (site["value"][rows], site["infer"]) for site in sites}


def run_on(
    model: Program,
    latents: Latents,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    structure: Structure,
    draws: int,
    plate: str = "_draws",
) -> list[Site]:
    """The sites of a model run on these values; a single draw has no dim of its own."""
    known = poutine.Trace()
    for name, (value, infer) in latents.items():
        value = value[0] if draws == 1 else value
        known.add_node(name, name=name, type="sample", value=value, is_observed=False, infer=infer)
    count = None if draws == 1 else draws
    return list(sample_sites(trace_draws(model, count, structure, args, kwargs, known=known, plate=plate)))


def sum_by_datum(sites: list[Site], structure: Structure) -> Tensor:
    """The sum of the sites' log densities over all plates but the data and the draws, ``[draws, batch]``."""
    total = sum(by_datum(log_density(site), structure) for site in sites)
    return torch.as_tensor(total, dtype=torch.float64)


def by_datum(density: Tensor, structure: Structure) -> Tensor:
    """One log density, summed over all plates but the data and the draws, ``[draws, batch]`` in float64."""
    density = density.double()[(None,) * (-structure.draws_dim - density.dim())]
    inner = [d for d in range(structure.draws_dim + 1, 0) if d != structure.dim]
    return density.sum(inner) if inner else density


def by_dimension(site: Site, value: Tensor, owner: str, mend: str) -> Tensor:
    """Log densities of the dimensions of a site's event, ``[..., d]``, without its mask; d is 1 for a scalar.

    Raises:
        ValueError: The dimensions of the density are not independent; the message ends with the mend.
    """
    event_dim, base = len(site["fn"].event_shape), site["fn"]
    while isinstance(base, (ExpandedDistribution, Independent)):
        base = base.base_dist
    if hasattr(base, "by_variable"):
        return base.by_variable(value)
    if base.event_shape:
        raise ValueError(
            f"{owner}: site '{site['name']}': the dimensions of {family_of(site['fn'])} are not independent: "
            f"{mend}"
        )
    log_prob = base.log_prob(value)
    return log_prob.flatten(-event_dim) if event_dim else log_prob[..., None]


def expand_to_site(values: Tensor, structure: Structure, event_dim: int) -> Tensor:
    """Values ``[draws, batch]``, with draws and batch in the dims that a site's value has for them."""
    shape = [1] * -structure.draws_dim
    shape[0], shape[structure.dim] = values.shape
    return values.reshape(*shape, *[1] * event_dim)


def filled(value: Tensor, size: int) -> Tensor:
    """The draws, with the last one repeated up to a number of ``size``."""
    if len(value) == size:
        return value
    return torch.cat([value, value[-1:].expand(size - len(value), *value.shape[1:])])
