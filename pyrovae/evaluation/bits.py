"""Nats as bits per dimension."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from pyrovae.core.checks import check_count

if TYPE_CHECKING:
    from pyrovae.evaluation.results import Evaluation

__all__ = ["bits_per_dim"]


def bits_per_dim(
    log_evidence: Tensor | Evaluation,
    num_dims: int | None = None,
    *,
    levels: int | None = None,
    density: bool | None = None,
) -> Tensor:
    r"""Nats per datum as bits per dimension: less is better.

    Of discrete data x of D dimensions, such as bits or the levels of a categorical likelihood, the
    probability has

    .. math:: b(x) = \frac{-\log p(x)}{D \log 2}

    and of data dequantised from L levels onto [0, 1], :math:`x = (k + u) / L`, the density has

    .. math:: b(x) = \frac{-\log p(x) + D \log L}{D \log 2}, \qquad
        E_u[b(x)] \ge \frac{-\log P(k)}{D \log 2}, \quad P(k) = L^{-D} \int p((k + u) / L) \, du

    by Jensen's inequality: an upper bound on the bits of the discrete data. With one u per datum the
    mean over the data estimates that bound, while one datum may be on either side of its own.

    The density of data that were not dequantised has no bits per dimension: it grows without limit on
    the grid of levels. A result says by its conventions which case it is, but for grey values as they
    are, whose likelihood may be a probability of the levels or a density: there ``density`` is asked for.

    Args:
        log_evidence: Nats per datum, any shape, or a result of :func:`pyrovae.evaluate`.
        num_dims: D, values in one datum; of a result, as recorded where it is.
        levels: L, the levels that uniform dequantisation filled, for a density of such data; of a
            result, as recorded where it is.
        density: Whether log p(x) is that of a density (True) or of a probability (False); by
            default as recorded, and of a tensor a density where ``levels`` are given.

    Returns:
        Bits per dimension, float64, in the shape of ``log_evidence``.

    Raises:
        ValueError: D is neither given nor recorded; a density of data that were not dequantised; no
            telling which of the two it is; the arguments contradict the record or one another.
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
    from pyrovae.evaluation.results import Evaluation  # here, for the data sets need only dequantise

    if isinstance(log_evidence, Tensor):
        nats = log_evidence
    elif isinstance(log_evidence, Evaluation):
        nats = log_evidence.log_evidence
        num_dims, levels, density = _recorded(log_evidence.conventions, num_dims, levels, density)
    else:
        raise TypeError(
            f"bits_per_dim: expected a tensor of nats or an Evaluation, got {type(log_evidence).__name__}: "
            f"wrap numbers in torch.tensor"
        )
    if num_dims is None:
        raise ValueError(
            "bits_per_dim: num_dims is neither given nor recorded: pass the number of values in one datum"
        )
    check_count("num_dims", num_dims)
    if density and levels is None:
        raise ValueError(
            "bits_per_dim: a density has bits per dimension only where the data were dequantised: "
            "pass levels=, which is 256 for 8-bit data"
        )
    if density is False and levels is not None:
        raise ValueError(
            "bits_per_dim: levels= is for a density, and density=False says probability: leave out the "
            "wrong one"
        )
    if levels is not None and levels < 2:
        raise ValueError(f"bits_per_dim: levels is {levels}: at least 2 are needed, 8-bit data have 256")
    filled = 0.0 if levels is None else math.log2(levels)
    return filled - nats.double() / (num_dims * math.log(2))


def _recorded(
    said: Mapping[str, Any], num_dims: int | None, levels: int | None, density: bool | None
) -> tuple[int | None, int | None, bool]:
    """The three arguments by what a result's conventions say, by the caller's where they say nothing."""
    num_dims = _agreed("num_dims", num_dims, said.get("dims"))
    values = said.get("values")
    if "dequantisation" in said:
        if density is False:
            raise ValueError(
                "bits_per_dim: the data were dequantised, so log p(x) is a density: leave density=False out"
            )
        return num_dims, _agreed("levels", levels, said.get("levels")), True
    if values == "{0, 1}":
        if density or levels is not None:
            raise ValueError(
                "bits_per_dim: the data are bits, which have a probability: leave levels and density out"
            )
        return num_dims, None, False
    if values == "real":
        raise ValueError(
            "bits_per_dim: the data are real numbers, and their density has no bits per dimension: "
            "report nats"
        )
    if density is False or (values is None and levels is not None):
        return num_dims, levels, density is not False
    if values is None:
        raise ValueError(
            "bits_per_dim: the result does not record what its data are: pass density=False for a "
            "probability of discrete data, or levels= for a density of dequantised data"
        )
    raise ValueError(
        f"bits_per_dim: data in {values} that were not dequantised have no bits per dimension under a "
        f"density: load them with dequantise=True, or pass density=False if the likelihood gives "
        f"probabilities of the levels"
    )


def _agreed(name: str, given: int | None, recorded: int | None) -> int | None:
    if given is not None and recorded is not None and given != recorded:
        raise ValueError(f"bits_per_dim: {name} is {given}, the result records {recorded}: leave {name} out")
    return recorded if given is None else given
