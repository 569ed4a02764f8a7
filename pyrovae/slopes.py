"""Gradients of the densities that annealing moves by, through compiled graphs."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.distributions import Transform

from pyrovae.distributions.binary import captured
from pyrovae.precision import Precision
from pyrovae.programs import Program

if TYPE_CHECKING:
    from pyrovae.tempering import Path

__all__ = ["Slopes", "compiled_slopes"]


class Slopes:
    """The gradient of log pi_beta by a graph that serves every temperature and every tile of the data.

    Args:
        model: Pyro program of p(x, z).
        guide: Pyro program of q(z | x).
        precision: Of the networks.
    """

    def __init__(self, model: Program, guide: Program, precision: Precision) -> None:
        from pyrovae.graphs import Graphs  # which the objectives import, and they the densities here

        self.graphs = Graphs(self._between, (model, guide), None, precision=precision, parameters=False)
        self._path: Path | None = None

    def __call__(self, path: Path, point: list[Tensor], beta: Tensor) -> list[Tensor] | None:
        """Gradients of the point's tensors and the densities of the two ends; None where no graph can be."""
        looked, self._path = self._path is path, path
        result = self.graphs.run((point, beta, path.args), {}, gradients=True, check=not looked)
        if result is None:
            return None
        return [*(each for each in result.gradients if each is not None), *result.more]

    def _between(self, point: list[Tensor], beta: Tensor, args: tuple[Any, ...]) -> tuple[Tensor, ...]:
        assert self._path is not None
        for name, transform in zip(self._path.space.names, self._path.space.transforms, strict=True):
            if captured.get() and _has_tensors(transform):
                from pyrovae.capture import NotCapturableError

                raise NotCapturableError(f"the bounds of site '{name}' are tensors, and may follow the data")
        return self._path.between(point, beta, args)


def _has_tensors(transform: Any) -> bool:
    """Whether a map, or what it is made of, has more to it than its kind."""
    parts = [part for name, part in vars(transform).items() if name != "_inv"]  # which points back
    parts += [each for part in parts if isinstance(part, list) for each in part]
    return any(
        isinstance(part, Tensor) or (isinstance(part, Transform) and _has_tensors(part)) for part in parts
    )


@lru_cache(maxsize=4)
def compiled_slopes(model: Program, guide: Program, start: str, precision: Precision) -> Slopes:
    """Those of a pair, kept until four others were asked for: making graphs takes seconds."""
    return Slopes(model, guide, precision)
