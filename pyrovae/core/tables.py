"""Tables of means over data, with separate standard errors by the choice of data and by the draws."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor


class Mean(NamedTuple):
    """A mean over data with its standard errors, which are nan if unknown."""

    mean: float
    test_set: float  # standard error by the choice of data
    monte_carlo: float  # standard error by the draws


def table(rows: Mapping[str, tuple[Tensor, Tensor | None]], heading: str = "nats per datum") -> list[str]:
    r"""Lines of a table with a heading: mean, test-set error and Monte Carlo error of each row.

    Args:
        rows: Values ``[n]`` with their standard errors ``[n]``, or None if unknown, by name.
        heading: Heading of the first column.

    Example:
        >>> import torch
        >>> print("\n".join(table({"KL": (torch.tensor([1.0, 3.0]), torch.tensor([0.3, 0.4]))})))
        nats per datum                          mean    test set   Monte Carlo
        KL                                     2.000     ± 0.968       ± 0.250
    """
    return lines(means(rows), heading)


def means(rows: Mapping[str, tuple[Tensor, Tensor | None]]) -> dict[str, Mean]:
    """The numbers of a table's rows, by name; see :func:`table`."""
    return {
        name: Mean(values.mean().item(), *mean_errors(values, errors))
        for name, (values, errors) in rows.items()
    }


def lines(numbers: Mapping[str, Mean], heading: str = "nats per datum") -> list[str]:
    """Lines of a table of these numbers, with a heading."""
    width = max(34, *(len(name) + 2 for name in numbers))
    result = [f"{heading:<{width}}{'mean':>10}{'test set':>12}{'Monte Carlo':>14}"]
    for name, (mean, test_set, monte_carlo) in numbers.items():
        result.append(f"{name:<{width}}{mean:>10.3f}{shown(test_set):>12}{shown(monte_carlo):>14}")
    return result


def mean_errors(values: Tensor, errors: Tensor | None) -> tuple[float, float]:
    """Standard errors of a mean over data: by the choice of data, and by the draws; nan if unknown.

    The variance of the draws is subtracted from that of the estimates, which contains both.
    """
    n = len(values)
    monte_carlo = math.nan if errors is None else errors.norm().item() / n
    if n == 1:
        return math.nan, monte_carlo
    noise = 0.0 if errors is None or errors.isnan().any() else errors.square().mean().item()
    return math.sqrt(max(values.var().item() - noise, 0.0) / n), monte_carlo


def shown(error: float) -> str:
    """A standard error as a table shows it; empty if unknown."""
    if math.isnan(error):
        return ""
    return f"± {error:.3f}" if error >= 0.0005 or error == 0 else f"± {error:.0e}"


def transformations(conventions: Mapping[str, Any]) -> list[str]:
    """The transformations of the data that a log p(x) refers to, in words.

    Example:
        >>> transformations({"binarisation": "none", "dequantisation": "uniform"})
        ['binarisation none', 'uniform dequantisation']
    """
    kinds = [f"binarisation {conventions['binarisation']}"] if "binarisation" in conventions else []
    noise = conventions.get("dequantisation", "none")
    return kinds if noise == "none" else [*kinds, f"{noise} dequantisation"]


def precision_of(conventions: Mapping[str, Any]) -> list[str]:
    """The precision of the networks, in words; empty for float32."""
    precision = conventions.get("precision", "float32")
    return [] if precision == "float32" else [f"networks in {precision}"]


def counted(number: int, noun: str) -> str:
    """A number with its noun.

    Example:
        >>> counted(1, "epoch"), counted(2000, "row")
        ('1 epoch', '2,000 rows')
    """
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
