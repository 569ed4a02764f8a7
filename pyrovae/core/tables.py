"""Tables of means over data, with the error by the choice of data and that by the draws kept apart."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

__all__ = [
    "Mean",
    "counted",
    "lines",
    "mean_errors",
    "means",
    "precision_of",
    "shown",
    "table",
    "transformations",
]


class Mean(NamedTuple):
    """A mean over data: what a row of a table is of.

    Attributes:
        mean: Nats per datum, mostly.
        test_set: Its standard error by the choice of data; nan where unknown.
        monte_carlo: Its standard error by the draws; nan where unknown.
    """

    mean: float
    test_set: float
    monte_carlo: float


def table(rows: Mapping[str, tuple[Tensor, Tensor | None]], heading: str = "nats per datum") -> list[str]:
    r"""Lines of a table, a heading first: mean, test-set error and Monte Carlo error of each row.

    Args:
        rows: By name, values ``[n]`` with their standard errors ``[n]``, or None where unknown.
        heading: Of the first column.

    Example:
        >>> import torch
        >>> print("\n".join(table({"KL": (torch.tensor([1.0, 3.0]), torch.tensor([0.3, 0.4]))})))
        nats per datum                          mean    test set   Monte Carlo
        KL                                     2.000     ± 0.968       ± 0.250
    """
    return lines(means(rows), heading)


def means(rows: Mapping[str, tuple[Tensor, Tensor | None]]) -> dict[str, Mean]:
    """The numbers of a table's rows, by name; values and errors as :func:`table` takes them."""
    return {
        name: Mean(values.mean().item(), *mean_errors(values, errors))
        for name, (values, errors) in rows.items()
    }


def lines(found: Mapping[str, Mean], heading: str = "nats per datum") -> list[str]:
    """Lines of a table of these numbers, a heading first."""
    width = max(34, *(len(name) + 2 for name in found))
    said = [f"{heading:<{width}}{'mean':>10}{'test set':>12}{'Monte Carlo':>14}"]
    for name, (mean, test_set, monte_carlo) in found.items():
        said.append(f"{name:<{width}}{mean:>10.3f}{shown(test_set):>12}{shown(monte_carlo):>14}")
    return said


def mean_errors(values: Tensor, errors: Tensor | None) -> tuple[float, float]:
    """Standard errors of a mean over data: from the choice of data, and from the draws; nan where unknown.

    The spread of estimates is that of the data plus that of the draws, which is taken off.

    Example:
        >>> import torch
        >>> mean_errors(torch.tensor([1.0, 3.0]), torch.zeros(2))
        (1.0, 0.0)
    """
    n = len(values)
    monte_carlo = math.nan if errors is None else errors.norm().item() / n
    if n == 1:
        return math.nan, monte_carlo
    drawn = 0.0 if errors is None or errors.isnan().any() else errors.square().mean().item()
    return math.sqrt(max(values.var().item() - drawn, 0.0) / n), monte_carlo


def shown(error: float) -> str:
    """An error as a table has it; nothing for one that is unknown."""
    if math.isnan(error):
        return ""
    return f"± {error:.3f}" if error >= 0.0005 or error == 0 else f"± {error:.0e}"


def transformations(conventions: Mapping[str, Any]) -> list[str]:
    """What was done to the values that a log p(x) is of, in words.

    Example:
        >>> transformations({"binarisation": "none", "dequantisation": "uniform"})
        ['binarisation none', 'uniform dequantisation']
    """
    said = [f"binarisation {conventions['binarisation']}"] if "binarisation" in conventions else []
    added = conventions.get("dequantisation", "none")
    return said if added == "none" else [*said, f"{added} dequantisation"]


def precision_of(conventions: Mapping[str, Any]) -> list[str]:
    """What the networks multiplied in, in words, where it was not the numbers' own precision."""
    precision = conventions.get("precision", "float32")
    return [] if precision == "float32" else [f"networks in {precision}"]


def counted(number: int, noun: str) -> str:
    """So many of them.

    Example:
        >>> counted(1, "epoch"), counted(2000, "row")
        ('1 epoch', '2,000 rows')
    """
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
