"""Nats as bits per dimension."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pyrovae.core.checks import check_count
from pyrovae.evaluation.results import Evaluation

__all__ = ["bits_per_dim"]


def bits_per_dim(
    log_evidence: Tensor | Evaluation,
    num_dims: int | None = None,
    *,
    levels: int | None = None,
    density: bool | None = None,
) -> Tensor:
    r"""Nats per datum as bits per dimension; less is better.

    A probability of discrete data, and a density of data dequantised from L levels onto [0, 1],
    :math:`x = (k + u) / L`, in D dimensions have

    .. math:: b(x) = \frac{-\log p(x)}{D \log 2}, \qquad
        b(x) = \frac{-\log p(x) + D \log L}{D \log 2}, \quad
        E_u[b(x)] \ge \frac{-\log P(k)}{D \log 2}, \quad P(k) = L^{-D} \int p((k + u) / L) \, du

    The second is, by Jensen's inequality, an upper bound on the bits of the discrete data, on average over u.
    A density of data that were not dequantised has no bits per dimension. Whether log p(x) is a density is
    recorded in a result, except for grey values as they are: pass ``density`` for these.

    Args:
        log_evidence: Nats per datum, any shape, or a result of :func:`pyrovae.evaluate`.
        num_dims: Number of values in one datum, D; as recorded in a result if not given.
        levels: Number of levels before dequantisation, L; as recorded in a result if not given.
        density: Whether log p(x) is of a density; as recorded in a result if not given, and of a tensor
            whether ``levels`` are given.

    Returns:
        Bits per dimension, float64, in the shape of ``log_evidence``.

    Raises:
        ValueError: D is neither given nor recorded; a density of data that were not dequantised; a missing
            or contradictory argument.
        TypeError: Neither a tensor nor a result.

    References:
        Theis et al., A note on the evaluation of generative models, 2016. arXiv:1511.01844

    Example:
        >>> import torch
        >>> bits_per_dim(-784 * torch.tensor([2.0]).double().log(), 784)  # fair coins
        tensor([1.], dtype=torch.float64)
        >>> bits_per_dim(torch.tensor([0.0]), 784, levels=256)  # the uniform density on [0, 1]^784
        tensor([8.], dtype=torch.float64)
    """
    if isinstance(log_evidence, Evaluation):
        conventions = log_evidence.conventions
        num_dims, levels, density = _recorded(conventions, num_dims, levels, density)
        log_evidence = log_evidence.log_evidence
    elif not isinstance(log_evidence, Tensor):
        raise TypeError(
            f"bits_per_dim: expected a tensor of nats or an Evaluation, got {type(log_evidence).__name__}: "
            f"wrap numbers in torch.tensor"
        )
    if num_dims is None:
        raise _error("num_dims is neither given nor recorded: pass the number of values in one datum")
    check_count("num_dims", num_dims)
    if density and levels is None:
        raise _error(
            "a density has bits per dimension only where the data were dequantised: pass levels=, which is "
            "256 for 8-bit data"
        )
    if density is False and levels is not None:
        raise _error("levels= is for a density, and density=False says probability: leave out the wrong one")
    if levels is not None and levels < 2:
        raise _error(f"levels is {levels}: at least 2 are needed, 8-bit data have 256")
    level_bits = 0.0 if levels is None else math.log2(levels)
    return level_bits - log_evidence.double() / (num_dims * math.log(2))


def _recorded(
    conventions: Mapping[str, Any], num_dims: int | None, levels: int | None, density: bool | None
) -> tuple[int | None, int | None, bool]:
    """The three arguments as recorded, or as given where nothing is recorded."""
    num_dims = _agreed("num_dims", num_dims, conventions.get("dims"))
    values = conventions.get("values")
    if "dequantisation" in conventions:
        if density is False:
            raise _error("the data were dequantised, so log p(x) is a density: leave density=False out")
        return num_dims, _agreed("levels", levels, conventions.get("levels")), True
    if values == "{0, 1}":
        if density or levels is not None:
            raise _error("the data are bits, which have a probability: leave levels and density out")
        return num_dims, None, False
    if values == "real":
        raise _error("the data are real numbers, and their density has no bits per dimension: report nats")
    if density is False or (values is None and levels is not None):
        return num_dims, levels, density is not False
    if values is None:
        raise _error(
            "the result does not record what its data are: pass density=False for a probability of discrete "
            "data, or levels= for a density of dequantised data"
        )
    raise _error(
        f"data in {values} that were not dequantised have no bits per dimension under a density: load them "
        f"with dequantise=True, or pass density=False if the likelihood gives probabilities of the levels"
    )


def _agreed(name: str, given: int | None, recorded: int | None) -> int | None:
    if given is not None and recorded is not None and given != recorded:
        raise _error(f"{name} is {given}, the result records {recorded}: leave {name} out")
    return recorded if given is None else given


def _error(message: str) -> ValueError:
    return ValueError(f"bits_per_dim: {message}")
