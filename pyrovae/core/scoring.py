"""The log densities of a model for given draws of its latents, summed by datum."""

from __future__ import annotations

from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyrovae.core.modules import Program
from pyrovae.core.programs import Site, Structure, log_density, sample_sites

__all__ = ["Latents", "by_datum", "expand_to_site", "filled", "latents_of", "run_on", "sum_by_datum"]

Latents = dict[str, tuple[Tensor, dict[str, Any]]]
"""Values ``[draws, ...]`` and the ``infer`` of the guide, by site."""


def latents_of(drawn: poutine.Trace, rows: slice) -> Latents:
    """Some rows of a guide's draws, without the sites that it observes, which are factors."""
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
    program = poutine.trace(poutine.replay(model, trace=known))
    if draws == 1:
        return list(sample_sites(program.get_trace(*args, **kwargs)))
    with pyro.plate(plate, draws, dim=structure.draws_dim):
        return list(sample_sites(program.get_trace(*args, **kwargs)))


def sum_by_datum(sites: list[Site], structure: Structure) -> Tensor:
    """The sum of the sites' log densities over all plates but the data and the draws, ``[draws, batch]``."""
    total = sum(by_datum(log_density(site), structure) for site in sites)
    return torch.as_tensor(total, dtype=torch.float64)


def by_datum(density: Tensor, structure: Structure) -> Tensor:
    """One log density, summed over all plates but the data and the draws, ``[draws, batch]`` in float64."""
    density = density.double()[(None,) * (-structure.draws_dim - density.dim())]
    inner = [d for d in range(structure.draws_dim + 1, 0) if d != structure.dim]
    return density.sum(inner) if inner else density


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
