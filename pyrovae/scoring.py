"""What a model says of draws of its latents: log p(x | z) and log p(z), by a compiled graph if asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyrovae.precision import Precision, networks_in
from pyrovae.programs import Program, Site, Structure, log_density, sample_sites

if TYPE_CHECKING:
    from pyrovae.graphs import Graphs

__all__ = [
    "Latents",
    "Scorer",
    "by_datum",
    "compiled_scorer",
    "filled",
    "in_place",
    "latents_of",
    "run_on",
    "sum_by_datum",
]

Latents = dict[str, tuple[Tensor, dict[str, Any]]]
"""By site, the values ``[draws, ...]`` and what the program that drew them said of inference."""


class Scorer:
    """Adds up a model's densities at values of its latents, many draws at once.

    Args:
        model: Pyro program of p(x, z).
        compile: Run as a compiled graph, one for each shape: it rounds otherwise than eagerly, and no more.
        precision: Of the model's networks.
    """

    def __init__(self, model: Program, *, compile: bool = False, precision: Precision = "float32") -> None:
        self.model, self.compile, self.precision = model, compile, precision
        self._looked: bool | None = None  # within settled(), whether for edits was looked already
        self._how: tuple[dict[str, Any], Structure, str] | None = None

    def __call__(
        self,
        latents: Latents,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        structure: Structure,
        draws: int,
        *,
        size: int | None = None,
        plate: str = "_draws",
    ) -> tuple[Tensor, Tensor]:
        """Log p(x | z) and log p(z), ``[draws, batch]`` each, float64.

        Args:
            latents: Where to score.
            args: Of the model.
            kwargs: Likewise.
            structure: Of the pair.
            draws: How many there are.
            size: Draws that a graph is made for: fewer are filled up, so that one graph serves all.
            plate: Name of the plate of draws.
        """
        values = {name: value for name, (value, _) in latents.items()}
        self._how = {name: infer for name, (_, infer) in latents.items()}, structure, plate
        if self.compile and values:
            if size is not None and size > draws:
                values = {name: filled(value, size) for name, value in values.items()}
            result = self.graphs.run((values, args, kwargs), {}, gradients=False, check=not self._looked)
            self._looked = None if self._looked is None else True
            if result is not None:
                return result.loss[:draws], result.more[0][:draws]
        with networks_in(self.precision):
            return self._sums(run_on(self.model, latents, args, kwargs, structure, draws, plate), structure)

    @contextmanager
    def settled(self) -> Iterator[None]:
        """Inside, the model stays as it is, and the first call alone looks for edits."""
        self._looked = False
        try:
            yield
        finally:
            self._looked = None

    @cached_property
    def graphs(self) -> Graphs:
        """The graphs made so far."""
        from pyrovae.graphs import Graphs  # which the objectives import, and they the densities here

        return Graphs(self._joint, (self.model,), None, precision=self.precision)

    def _joint(
        self, values: dict[str, Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        assert self._how is not None
        infer, structure, plate = self._how
        latents = {name: (value, infer[name]) for name, value in values.items()}
        draws = len(next(iter(values.values())))
        return self._sums(run_on(self.model, latents, args, kwargs, structure, draws, plate), structure)

    @staticmethod
    def _sums(sites: list[Site], structure: Structure) -> tuple[Tensor, Tensor]:
        return (
            sum_by_datum([site for site in sites if site["is_observed"]], structure),
            sum_by_datum([site for site in sites if not site["is_observed"]], structure),
        )


@lru_cache(maxsize=4)
def compiled_scorer(model: Program, precision: Precision) -> Scorer:
    """The compiled scorer of a model, kept until four others were asked for: making graphs takes seconds.

    An edit of the model is noticed, and the graph made anew.
    """
    return Scorer(model, compile=True, precision=precision)


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


def in_place(values: Tensor, structure: Structure, event_dim: int) -> Tensor:
    """Values [draws, batch], with both in the dims that a site's value has them in."""
    shape = [1] * -structure.draws_dim
    shape[0], shape[structure.dim] = values.shape
    return values.reshape(*shape, *[1] * event_dim)


def filled(value: Tensor, size: int) -> Tensor:
    """So many draws, the last one repeated."""
    if len(value) == size:
        return value
    return torch.cat([value, value[-1:].expand(size - len(value), *value.shape[1:])])
