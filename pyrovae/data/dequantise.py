"""Densities of 8-bit data: noise that fills the levels, and nats as bits per dimension."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    pass

__all__ = ["check_levels", "dequantise"]

PLACES = 2**15
"""Values of u. With 8 bits of k an odd multiple of 1 / (2 PLACES) fills float32's 24 bits, and no more."""


def dequantise(values: Tensor, *, levels: int = 256, generator: torch.Generator | None = None) -> Tensor:
    r"""Fill the room between levels by uniform noise.

    .. math:: x = (k + u) / L, \quad u \sim \mathrm{Uniform}(0, 1)

    so that a density of x cannot grow without limit on a grid. The noise u takes 2^15 equally spaced
    values, the odd multiples of 2^-16: of 256 levels, each x is exact in float32 as in float64, and
    never 0 or 1, where a Beta density may be infinite. ``(levels * x).floor()`` has the level again.

    Args:
        values: k, whole numbers from 0 to L - 1, any shape and dtype.
        levels: L, from 2 to 256.
        generator: Where the noise comes from; else torch's own.

    Returns:
        x, strictly within (0, 1), in the default dtype: float32 or float64.

    Raises:
        ValueError: ``levels`` out of range, or a value that is no level.

    References:
        Uria et al., RNADE: The real-valued neural autoregressive density-estimator, 2013.
        arXiv:1306.0186

    Example:
        >>> x = dequantise(torch.tensor([0, 127, 255], dtype=torch.uint8))
        >>> (256 * x).floor()
        tensor([  0., 127., 255.])
    """
    check_levels(values, levels)
    place = torch.randint(PLACES, values.shape, generator=generator, device=values.device, dtype=torch.int32)
    # In whole numbers up to 2^24 nothing is rounded; k + u in float32 could come out as k + 1.
    position = values.to(torch.int32) * (2 * PLACES) + 2 * place + 1
    return position.to(torch.get_default_dtype()) / (2 * PLACES * levels)


def check_levels(values: Tensor, levels: float) -> None:
    """Refuse values that are not whole numbers from 0 to ``levels - 1``, and levels beyond 8 bits."""
    if not (2 <= levels <= 256 and levels == int(levels)):
        raise ValueError(
            f"dequantise: {levels:g} levels, 2 to 256 are possible: 8-bit values have levels=256, and a "
            f"Split of them scale=255"
        )
    bad = (values < 0) | (values > levels - 1)
    if values.is_floating_point():
        bad |= values != values.floor()
    if bad.any():
        raise ValueError(
            f"dequantise: {values[bad][0].item():g} among the values, expected whole numbers from 0 to "
            f"{levels - 1:g}: pass 8-bit values undivided, with levels=256, or to a Split scale=255"
        )
