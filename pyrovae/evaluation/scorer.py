"""A model's log densities at draws of its latents, eagerly or by a compiled graph."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from torch import Tensor

from pyrovae.core.modules import Program
from pyrovae.core.precision import Precision, networks_in
from pyrovae.core.programs import Structure
from pyrovae.core.scoring import Latents, filled, run_on, sum_by_datum

if TYPE_CHECKING:
    from pyrovae.compiler.graphs import Graphs

__all__ = ["Scorer", "compiled_scorer"]


class Scorer:
    """Sums a model's log densities at values of its latents, many draws at once.

    Args:
        model: Pyro program of p(x, z).
        compile: Whether to run a compiled graph, one per shape, which rounds otherwise.
        precision: Precision of the model's networks.
    """

    def __init__(self, model: Program, *, compile: bool = False, precision: Precision = "float32") -> None:
        self.model, self.compile, self.precision = model, compile, precision
        self._checked: bool | None = None  # inside assume_unchanged, whether edits were looked for already
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

        A compiled graph is made for ``size`` draws; fewer are padded, so that one graph serves all.
        """
        values = {name: value for name, (value, _) in latents.items()}
        self._how = {name: infer for name, (_, infer) in latents.items()}, structure, plate
        if self.compile and values:
            if size is not None and size > draws:
                values = {name: filled(value, size) for name, value in values.items()}
            result = self.graphs.run((values, args, kwargs), {}, gradients=False, check=not self._checked)
            self._checked = None if self._checked is None else True
            if result is not None:
                return result.loss[:draws], result.more[0][:draws]
        with networks_in(self.precision):
            return self._joint(values, args, kwargs, draws)

    @contextmanager
    def assume_unchanged(self) -> Iterator[None]:
        """Inside, only the first call looks for edits of the model."""
        self._checked = False
        try:
            yield
        finally:
            self._checked = None

    @cached_property
    def graphs(self) -> Graphs:
        """The compiled graphs made so far."""
        from pyrovae.compiler.graphs import Graphs  # loads torch's compiler

        return Graphs(self._joint, (self.model,), None, precision=self.precision)

    def _joint(
        self,
        values: dict[str, Tensor],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        draws: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        assert self._how is not None
        infer, structure, plate = self._how
        latents = {name: (value, infer[name]) for name, value in values.items()}
        draws = len(next(iter(values.values()))) if draws is None else draws
        sites = run_on(self.model, latents, args, kwargs, structure, draws, plate)
        return (
            sum_by_datum([site for site in sites if site["is_observed"]], structure),
            sum_by_datum([site for site in sites if not site["is_observed"]], structure),
        )


@lru_cache(maxsize=4)
def compiled_scorer(model: Program, precision: Precision) -> Scorer:
    """The compiled scorer of a model, cached since graphs take seconds to make; edits make a new graph."""
    return Scorer(model, compile=True, precision=precision)
