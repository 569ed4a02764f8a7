"""A model's log densities at draws of its latents, eagerly or by a compiled graph."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from torch import Tensor

from pyrovae.core.modules import Program
from pyrovae.core.precision import Precision, networks_in
from pyrovae.core.programs import Site, Structure

if TYPE_CHECKING:
    from pyrovae.compiler.graphs import Graphs
from pyrovae.core.scoring import Latents, filled, run_on, sum_by_datum

__all__ = ["Scorer", "compiled_scorer"]


class Scorer:
    """Adds up a model's densities at values of its latents, many draws at once.

    Args:
        model: Pyro program of p(x, z).
        compile: Run as a compiled graph, one for each shape: it rounds otherwise than eagerly, and no more.
        precision: Of the model's networks.
    """

    def __init__(self, model: Program, *, compile: bool = False, precision: Precision = "float32") -> None:
        self.model, self.compile, self.precision = model, compile, precision
        self._looked: bool | None = None  # within assume_unchanged(), whether for edits was looked already
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
    def assume_unchanged(self) -> Iterator[None]:
        """Inside, the model stays as it is, and the first call alone looks for edits."""
        self._looked = False
        try:
            yield
        finally:
            self._looked = None

    @cached_property
    def graphs(self) -> Graphs:
        """The graphs made so far."""
        from pyrovae.compiler.graphs import Graphs  # which the objectives import, and they the densities here

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
