"""A check that data lie in the support of a likelihood, with advice where they do not."""

from __future__ import annotations

from typing import Any

import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor

from pyrovae.core.wrap import family_of, support_of
from pyrovae.models.base import width_hint

__all__ = ["check_support"]

GREY = ("Bernoulli", "ContinuousBernoulli", "OpenBeta", "Levels", "DiscretizedLogistic")


def check_support(distribution: Any, x: Tensor) -> None:
    """Refuse data outside the likelihood's support, with one line of advice.

    With Pyro's validation off nothing is checked. It is off while a program is captured as a graph, as a
    value cannot decide what a graph runs.

    Args:
        distribution: p(x | z) of a batch.
        x: The data, ``[batch, *event]``.

    Raises:
        ValueError: The shape of a row is not the event shape, or a value is outside the support.
    """
    if not is_validation_enabled():
        return
    name = family_of(distribution)
    event = distribution.event_shape
    if x.shape[x.dim() - len(event) :] != event:
        wide = width_hint(event[-1], x.shape[-1]) if event and x.dim() else "as wide as the data"
        raise ValueError(
            f"site 'x': data of shape {tuple(x.shape)}, and the likelihood's {name} has rows of "
            f"{tuple(event)}: make its network's output {wide}"
        )
    support = support_of(distribution)
    if support is None or support.check(x).all():
        return
    row, value = _first_bad(support, x)
    raise ValueError(
        f"site 'x': value {value:g} in row {row} of the batch is outside {name}: {_mend(name, x, value)}"
    )


def _first_bad(support: torch.distributions.constraints.Constraint, x: Tensor) -> tuple[int, float]:
    """Row and value of the first value outside the support, which may have draws dims on the left."""
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    good = support.check(x)
    if good.shape[good.dim() - x.dim() :] != x.shape:  # a constraint on whole rows
        row = int((~good.reshape(-1, len(x)).all(0)).nonzero()[0])
        return row, float(x[row].flatten()[0])
    first = (~good.reshape(-1, *x.shape).all(0)).nonzero()[0]
    return int(first[0]), float(x[tuple(first)])


def _mend(name: str, x: Tensor, value: float) -> str:
    """Advice on the first bad value, from the kind of values in the whole data."""
    if value != value:
        return "drop the row or fill it in"
    low, high = x.min(), x.max()
    whole, unit = bool((x == x.round()).all()), bool(low >= 0 and high <= 1)
    if unit and whole:
        return "for binary data use Bernoulli"
    if unit:
        steps = 255 * x
        levels = bool(((steps - steps.round()).abs() < 1e-3).all())
        greys = "ContinuousBernoulli" + (", Categorical or DiscretizedLogistic" if levels else " or Beta")
        if name == "Bernoulli":
            return f"binarise, or use {greys}"
        if name == "OpenBeta":
            return f"dequantise, datasets.load(..., dequantise=True), or use {greys}"
        return f"use {greys}"
    if low >= 0 and high <= 255 and whole and name in GREY:
        greys = "divide 8-bit values by 255"
        greys += ", then binarise" if name == "Bernoulli" else ""
        return f"{greys}, or use Poisson, NegativeBinomial or Binomial for counts"
    if low >= 0 and whole and name == "Binomial":
        return "raise total_count, or use Poisson or NegativeBinomial for counts without a limit"
    if low >= 0 and whole:
        return "use Poisson or NegativeBinomial"
    return "use Normal, Laplace or StudentT, or rescale the data"
