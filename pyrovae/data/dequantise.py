"""Densities of 8-bit data: noise that fills the levels, and nats as bits per dimension."""

from __future__ import annotations

import torch
from torch import Tensor

PLACES = 2**15
"""Number of values of u. With 8 bits of k, an odd multiple of 1 / (2 PLACES) just fits float32's 24 bits."""


def dequantise(values: Tensor, *, levels: int = 256, generator: torch.Generator | None = None) -> Tensor:
    r"""Add uniform noise between the levels.

    .. math:: x = (k + u) / L, \quad u \sim \mathrm{Uniform}(0, 1)

    so that a density of x cannot grow without limit on a grid. The noise takes 2^15 equally spaced values,
    the odd multiples of 2^-16: for 256 levels, x is exact in float32 and never 0 or 1, where a Beta density
    may be infinite. ``(levels * x).floor()`` is the level.

    Args:
        values: k, whole numbers from 0 to L - 1, any shape and dtype.
        levels: L, from 2 to 256.
        generator: Source of the noise; by default torch's own.

    Returns:
        x, strictly within (0, 1), in torch's default dtype.

    Raises:
        ValueError: ``levels`` is out of range, or a value is no level.

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
    # Whole numbers up to 2^24 are exact; k + u in float32 could be rounded to k + 1.
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
