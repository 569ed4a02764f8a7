"""What a model says of draws of its latents: log p(x | z) and log p(z), by a compiled graph if asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyrovae.core.modules import Program
from pyrovae.core.programs import Site, Structure, log_density, sample_sites

if TYPE_CHECKING:
    pass

__all__ = ["Latents", "by_datum", "expand_to_site", "filled", "latents_of", "run_on", "sum_by_datum"]

Latents = dict[str, tuple[Tensor, dict[str, Any]]]
"""By site, the values ``[draws, ...]`` and what the program that drew them said of inference."""


def latents_of(drawn: poutine.Trace, rows: slice) -> Latents:
    """Some of the draws that a guide made: of every site but those it observes, which are factors."""
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
    """The sites of a model that was run on these values; a single draw goes without a draws dim."""
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
    """Add up the sites' log densities over all plates but the data and the draws: [draws, batch]."""
    total: Tensor | float = 0.0
    for site in sites:
        total = total + by_datum(log_density(site), structure)
    return torch.as_tensor(total, dtype=torch.float64)


def by_datum(density: Tensor, structure: Structure) -> Tensor:
    """One density, summed over all plates but the data and the draws: [draws, batch], float64."""
    density = density.double()[(None,) * (-structure.draws_dim - density.dim())]
    inner = [d for d in range(structure.draws_dim + 1, 0) if d != structure.dim]
    return density.sum(inner) if inner else density


def expand_to_site(values: Tensor, structure: Structure, event_dim: int) -> Tensor:
    """Values [draws, batch], with both in the dims that a site's value has them in."""
    shape = [1] * -structure.draws_dim
    shape[0], shape[structure.dim] = values.shape
    return values.reshape(*shape, *[1] * event_dim)


def filled(value: Tensor, size: int) -> Tensor:
    """So many draws, the last one repeated."""
    if len(value) == size:
        return value
    return torch.cat([value, value[-1:].expand(size - len(value), *value.shape[1:])])
